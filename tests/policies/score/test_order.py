from __future__ import annotations

import torch
from rows.made import predictions, rows

from dllmc.policies.commit.leftmost import Leftmost
from dllmc.policies.commit.quota import Quota
from dllmc.policies.config import DecodingConfig
from dllmc.policies.progress import commit_rows
from dllmc.policies.score.order import Order
from dllmc.policies.standing import BlockProgress
from dllmc.spec import DenoiserSpec

BIG = 2**63 - 1
PROGRESS = BlockProgress(step=1, masks=8, blocks=1, remaining=8, evaluations=5)


def doubts(counters: list[list[int]], positions: list[list[int]]) -> torch.Tensor:
    places = torch.tensor(positions)
    made = rows(torch.rand(places.shape), positions=places, counters=torch.tensor(counters))
    return Order().judge(made, {}).doubt


def test_both_sides_draw_the_same_number() -> None:
    counters = [[0, 0, 0], [7, 3, 40], [BIG, 2**31, 9]]
    positions = [[0, 5, 6], [1, 2, 4095], [0, 1, 2]]
    drawn = doubts(counters, positions)
    for n, (seed, stream, nfe) in enumerate(counters):
        asked = [
            row.having(counters=(seed, stream, nfe))
            for row in predictions([1.0] * 3, positions=positions[n])
        ]
        judged = Order().oracle(asked, PROGRESS, {})
        assert drawn[n].tolist() == [row.doubt for row in judged]


def test_it_is_the_same_in_every_evaluation_and_another_elsewhere() -> None:
    places = list(range(40))
    found = doubts([[3, 2, 0], [3, 2, 9], [4, 2, 0], [3, 1, 0]], [places] * 4)
    assert found[0].equal(found[1])
    assert found[0].unique().numel() == 40
    for other in found[2:]:
        assert (other != found[0]).all()


def test_the_order_that_is_known_before_is_that_of_the_doubts() -> None:
    counters = (5, 1, 7)
    ranked = Order().ranked(range(3, 60), counters)
    drawn = doubts([list(counters)], [list(range(3, 60))])
    assert ranked == (3 + drawn[0].argsort()).tolist()


def test_what_is_known_to_commit_does() -> None:
    for seed in range(20):
        for commit in (Quota(steps=3), Quota(steps=40), Quota(), Leftmost(tokens=3)):
            made = rows(torch.rand(1, 8), counters=torch.tensor([[seed, 0, 5]]))
            values = {n: torch.tensor([v]).float() for n, v in commit.values(PROGRESS).items()}
            chosen = commit_rows(commit, Order().judge(made, {}), values)[0]
            config = DecodingConfig(commit=commit, score=Order(), seed=seed)
            coming = config.coming(range(8), PROGRESS, stream=0)
            assert sorted(coming) == chosen.nonzero().flatten().tolist()


def test_else_nothing_is_known() -> None:
    for fields in ({"score": {"kind": "order"}, "commit": {"kind": "timesteps"}}, {}):
        assert DecodingConfig(**fields).coming(range(8), PROGRESS, stream=0) == ()


def test_it_is_a_baseline_that_the_tuner_leaves_out() -> None:
    assert not Order.suits(DenoiserSpec(mask_id=9, vocab_size=10, max_length=64))
    assert not Order.odds
