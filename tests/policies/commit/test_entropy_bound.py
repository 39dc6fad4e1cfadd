from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies._entropy import entropy_of
from dllmc.policies.commit.entropy_bound import EntropyBound
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)


def decided(entropies: list[float], bound: float, doubts: list[float] | None = None) -> set[int]:
    """In order of `doubts`, which are the entropies if nothing else is said."""
    policy = EntropyBound(bound=bound)
    doubts = entropies if doubts is None else doubts
    asked = [
        row.having(logits=logits_of(entropy))
        for row, entropy in zip(predictions(doubts), entropies, strict=True)
    ]
    made = rows([doubts]).having(extra={"entropy": torch.tensor([entropies])})
    committed = commit_rows(policy, made, {"bound": torch.tensor([bound])})
    chosen = set(committed[0].nonzero().flatten().tolist())
    assert commit_oracle(policy, asked, PROGRESS) == chosen
    return chosen


def logits_of(entropy: float) -> np.ndarray:
    """Of two tokens, by halving the range of their distance."""
    (row,) = predictions([1.0])
    near, far = 0.0, 60.0
    for _ in range(100):
        middle = (near + far) / 2
        logits = np.array([0.0, -middle, *[-np.inf] * 3])
        near, far = (
            (middle, far) if entropy_of(row.having(logits=logits)) > entropy else (near, middle)
        )
    return logits


def test_all_entropies_but_the_largest_count() -> None:
    # Errors of the prefixes: 0, .1, .3, .6.
    ascending = [0.1, 0.2, 0.3, 0.4]
    assert [len(decided(ascending, bound)) for bound in (0.05, 0.2, 0.5, 0.7)] == [1, 2, 3, 4]


def test_the_order_is_that_of_the_doubts() -> None:
    # .4 first, then .1 and .3: errors 0, .1, .4.
    assert decided([0.4, 0.3, 0.1], 0.2, doubts=[0.0, 2.0, 1.0]) == {0, 2}


def test_a_bound_of_0_commits_one_token() -> None:
    for entropies in ([0.1, 0.2, 0.3], [0.3, 0.3, 0.3], [0.6, 1e-4, 0.2]):
        assert len(decided(entropies, 0.0)) == 1


def test_rows_that_may_not_commit_do_not_count() -> None:
    entropy = torch.tensor([[0.1, 0.1, 0.1, 0.2]])
    made = rows([[0.0, 0.0, 1.0, 2.0]], [[False, False, True, True]])
    made = made.having(extra={"entropy": entropy})
    policy = EntropyBound(bound=0.15)
    assert commit_rows(policy, made, {"bound": torch.tensor([0.15])}).tolist() == [
        [False, False, True, True]
    ]


@pytest.mark.parametrize("bound", [-0.1, math.nan, math.inf])
def test_a_bad_bound_is_refused(bound: float) -> None:
    with pytest.raises(ConfigError, match=f"`bound`={bound}: input should be "):
        EntropyBound(bound=bound)


def test_the_bound_is_tuned_over_magnitudes() -> None:
    knob = EntropyBound.knobs()["bound"]
    assert (knob.low, knob.high, knob.scale, knob.structural) == (1e-3, 1.5, "log", False)
