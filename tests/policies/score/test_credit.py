from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rows.made import MASK, SPEC, Store, matching

from dllmc.policies.config import DecodingConfig
from dllmc.policies.score.credit import Credit
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=1, blocks=1)
Judged = tuple[int, float]


def values_of(policy: Credit, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {n: torch.tensor([v], dtype=dtype) for n, v in policy.values(PROGRESS).items()}


def published(policy: Credit, evaluations: np.ndarray) -> list[list[Judged]]:
    """The dense matrix: one credit for every token of the vocabulary."""
    credit = np.zeros(evaluations.shape[1:])
    found = []
    for logits in evaluations:
        credit *= policy.decay
        raw = np.exp(logits - logits.max(-1, keepdims=True))
        raw /= raw.sum(-1, keepdims=True)
        for row in range(len(logits)):
            best = int(raw[row].argmax())
            credit[row, best] += raw[row, best] ** policy.exponent
        fused = logits + policy.fusion * np.log(credit + 1)
        p = np.exp(fused - fused.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        found.append([(int(row.argmax()), (1 - row.max()) / row.max()) for row in p])
    return found


def decoded(policy: Credit, evaluations: np.ndarray) -> tuple[list[list[Judged]], ...]:
    """Candidates and doubts by the tensor function and by the oracle."""
    store = Store(policy.remembers(SPEC), 1, torch.float64)
    positions = torch.arange(evaluations.shape[1])[None]
    values = values_of(policy, torch.float64)
    memory: dict[str, object] = {}
    ours, theirs = [], []
    for logits in evaluations:
        recalled = store.recall(positions)
        evaluated = matching(torch.tensor(logits)[None], needs=policy.needs, memory=recalled)
        rows = policy.judge(evaluated.rows, values)
        assert torch.equal(rows.tail, rows.doubt)
        store.keep(positions, rows.memory)
        ours.append(list(zip(rows.ids[0].tolist(), rows.doubt[0].tolist(), strict=True)))
        judged = policy.oracle(evaluated.predictions[0], PROGRESS, memory)
        theirs.append([(row.candidate, row.doubt) for row in judged])
    return ours, theirs


def assert_same(found: list[list[Judged]], expected: list[list[Judged]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert [token for token, _ in ours] == [token for token, _ in theirs]
        assert [d for _, d in ours] == pytest.approx([d for _, d in theirs], rel=1e-9)


def random_logits(seed: int, spread: float) -> np.ndarray:
    logits = spread * np.random.default_rng(seed).standard_normal((12, 6, 5))
    logits[..., MASK] = -9.0  # published code gives credit to the mask too
    return logits


@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
def test_with_a_slot_for_every_token_it_is_the_dense_form(spread: float) -> None:
    policy = Credit(fusion=1.5, decay=0.65, exponent=0.5, slots=4)
    evaluations = random_logits(3, spread)
    ours, theirs = decoded(policy, evaluations)
    assert_same(ours, theirs)
    assert_same(ours, published(policy, evaluations))


def test_credit_lets_an_earlier_token_win() -> None:
    policy = Credit()
    first = [1.0, 0.0, -1.0, -2.0, -9.0]
    later = [1.0, 1.01, -1.0, -2.0, -9.0]
    ours, _ = decoded(policy, np.array([[first]] * 3 + [[later]]))
    assert [step[0][0] for step in ours] == [0, 0, 0, 0]
    # Doubts sink as long as the same token is the best.
    assert ours[0][0][1] > ours[1][0][1] > ours[2][0][1]
    assert decoded(Credit(fusion=0), np.array([[later]]))[0][0][0][0] == 1


def test_the_smallest_credit_gives_way() -> None:
    policy = Credit(slots=2, decay=1.0, exponent=1.0)
    sure, unsure = 9.0, 0.1
    steps = [(0, sure), (1, unsure), (2, sure)]
    evaluations = np.zeros((3, 1, 5))
    for step, (token, lead) in enumerate(steps):
        evaluations[step, 0, token] = lead
    evaluations[..., MASK] = -9.0
    ours, theirs = decoded(policy, evaluations)
    assert_same(ours, theirs)
    store = Store(policy.remembers(SPEC), 1, torch.float64)
    positions = torch.zeros(1, 1, dtype=torch.int64)
    values = values_of(policy, torch.float64)
    for logits in evaluations:
        recalled = store.recall(positions)
        evaluated = matching(torch.tensor(logits)[None], needs=policy.needs, memory=recalled)
        store.keep(positions, policy.judge(evaluated.rows, values).memory)
    assert store.recall(positions)["score.ids"].tolist() == [[[0, 2]]]


def test_a_sure_candidate_keeps_its_tiny_doubt_in_float32() -> None:
    # (1 - p) / p is 1e-12, and e^(0.7 log 2) times less with a credit of 1.
    policy = Credit()
    logits = torch.tensor([[[math.log(1e12), 0.0, *[-1000.0] * 3]]]).double()
    recalled = Store(policy.remembers(SPEC), 1, torch.float32).recall(torch.zeros(1, 1).long())
    rows = matching(logits, needs=policy.needs, dtype=torch.float32, memory=recalled).rows
    values = values_of(policy, torch.float32)
    doubt = policy.judge(rows, values).doubt.item()
    assert doubt == pytest.approx(1e-12 / 2**0.7, rel=1e-4)


def test_committed_rows_are_left_alone() -> None:
    policy = Credit()
    logits = torch.tensor([[[1.0, 0.0, 0.0, 0.0, -9.0]] * 2]).double()
    recalled = Store(policy.remembers(SPEC), 1, torch.float64).recall(torch.arange(2)[None])
    tokens = torch.tensor([[MASK, 3]])
    rows = matching(logits, needs=policy.needs, memory=recalled, tokens=tokens).rows
    values = values_of(policy, torch.float64)
    judged = policy.judge(rows, values)
    assert judged.doubt[0, 1] == rows.tail[0, 1] > judged.doubt[0, 0]
    assert judged.memory["score.values"][0, 1].tolist() == [0.0] * 4


def test_sampling_and_carried_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`score\.kind`='credit' and `temperature`=0\.5 do not"):
        DecodingConfig(score={"kind": "credit"}, temperature=0.5)
    with pytest.raises(ConfigError, match=r"use `cache\.window_first`='self'"):
        DecodingConfig(score={"kind": "credit"}, cache={"kind": "dual", "window_first": "carried"})
    DecodingConfig(score={"kind": "credit"}, cache={"kind": "dual"})


def test_slots_are_structural_and_the_rest_are_values() -> None:
    knobs = Credit.knobs()
    assert [name for name, knob in knobs.items() if knob.structural] == ["slots"]
    assert knobs["slots"].choices == (2, 4, 8)
    assert Credit(slots=8).needs == {"gather8"}
    assert Credit(fusion=1.0).structure() == Credit().structure() != Credit(slots=2).structure()


@pytest.mark.parametrize("slots", [0, 65])
def test_a_bad_number_of_slots_is_refused(slots: int) -> None:
    with pytest.raises(ConfigError, match="`slots`"):
        Credit(slots=slots)
