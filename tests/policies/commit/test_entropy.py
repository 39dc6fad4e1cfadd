from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.entropy import EntropyThreshold
from dllmc.policies.config import DecodingConfig
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)
# Of two tokens as probable, of three, and of one: log 2, log 3 and 0 nats.
EVEN = {2: math.log(2), 3: math.log(3), 1: 0.0}


def decided(counts: list[int], doubts: list[float], threshold: float) -> set[int]:
    policy = EntropyThreshold(threshold=threshold)
    asked = [
        row.having(logits=np.array([0.0] * count + [-np.inf] * (5 - count)))
        for row, count in zip(predictions(doubts), counts, strict=True)
    ]
    entropies = torch.tensor([[EVEN[count] for count in counts]])
    made = rows([doubts]).having(extra={"entropy": entropies})
    values = {"threshold": torch.tensor([threshold])}
    committed = commit_rows(policy, made, values)[0].nonzero().flatten().tolist()
    assert commit_oracle(policy, asked, PROGRESS) == set(committed)
    return set(committed)


def test_what_has_little_entropy_commits() -> None:
    assert decided([2, 3, 2, 3], [0.0, 1.0, 2.0, 3.0], 0.7) == {0, 2}


def test_no_entropy_is_at_most_a_threshold_of_0() -> None:
    assert decided([1, 2, 1], [0.0, 1.0, 2.0], 0.0) == {0, 2}


def test_the_surest_row_commits_whatever_its_entropy() -> None:
    assert decided([2, 3, 2], [2.0, 1.0, 3.0], 0.5) == {1}


def test_it_goes_with_every_score() -> None:
    commit = {"kind": "entropy", "threshold": 0.45}
    for score in ("entropy", "probability", "margin", "random", "credit"):
        config = DecodingConfig(commit=commit, score={"kind": score})
        assert "entropy" in config.statistics


@pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf])
def test_a_bad_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=f"`threshold`={threshold}: input should be "):
        EntropyThreshold(threshold=threshold)
