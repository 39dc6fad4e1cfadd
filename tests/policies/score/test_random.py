from __future__ import annotations

import torch
from rows.made import predictions, rows

from dllmc.kernels.noise import _mix as mix_of_kernels
from dllmc.policies._hash import _mix
from dllmc.policies.score.random import Random
from dllmc.policies.standing import BlockProgress
from dllmc.spec import DenoiserSpec

PROGRESS = BlockProgress(step=0, masks=4, blocks=1)
BIG = 2**63 - 1


def doubts(counters: list[list[int]], positions: list[list[int]]) -> torch.Tensor:
    places = torch.tensor(positions)
    made = rows(torch.rand(places.shape), positions=places, counters=torch.tensor(counters))
    return Random().judge(made, {}).doubt


def test_both_sides_draw_the_same_number() -> None:
    counters = [[0, 0, 0], [7, 3, 40], [BIG, 2**31, 9]]
    positions = [[0, 5, 6], [1, 2, 4095], [0, 1, 2]]
    drawn = doubts(counters, positions)
    for n, (seed, stream, nfe) in enumerate(counters):
        asked = [
            row.having(counters=(seed, stream, nfe))
            for row in predictions([1.0] * 3, positions=positions[n])
        ]
        judged = Random().oracle(asked, PROGRESS, {})
        assert drawn[n].tolist() == [row.doubt for row in judged]


def test_numbers_are_uniform_whatever_counts() -> None:
    # The mean of 4096 uniform numbers is off by .0045 as a rule.
    over_positions = doubts([[3, 0, 0]], [list(range(4096))])
    over_steps = doubts([[3, 0, step] for step in range(4096)], [[0]] * 4096)
    over_streams = doubts([[3, stream, 0] for stream in range(4096)], [[0]] * 4096)
    over_seeds = doubts([[seed << 32, 0, 0] for seed in range(4096)], [[0]] * 4096)
    for drawn in (over_positions, over_steps, over_streams, over_seeds):
        assert drawn.unique().numel() > 4090
        assert abs(drawn.mean().item() - 0.5) < 0.02
        assert abs(drawn.std().item() - 12**-0.5) < 0.02
        assert 0 < drawn.min() < drawn.max() < 1


def test_the_mixer_is_that_of_the_noise() -> None:
    words = torch.arange(0, 2**32, 2**22 + 1)
    assert torch.equal(_mix(words), mix_of_kernels(words))
    assert [_mix(word) for word in words[:9].tolist()] == _mix(words[:9]).tolist()


def test_it_is_a_baseline_that_the_tuner_leaves_out() -> None:
    assert not Random.suits(DenoiserSpec(mask_id=9, vocab_size=10, max_length=64))
    assert not Random.odds
