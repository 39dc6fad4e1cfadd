from __future__ import annotations

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.leftmost import Leftmost
from dllmc.policies.config import DecodingConfig
from dllmc.policies.progress import commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, DenoiserSpec

PROGRESS = BlockProgress(0, 4, 1, 4, 4)
ELIGIBLE = [[0, 1, 0, 1, 1], [1, 1, 1, 1, 1]]


def committed(*tokens: float) -> list[list[int]]:
    found = rows(torch.ones(2, 5), torch.tensor(ELIGIBLE))
    return commit_rows(Leftmost(), found, {"tokens": torch.tensor(tokens)}).int().tolist()


def test_the_first_eligible_row_commits_however_unsure() -> None:
    assert committed(1.0, 1.0) == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert Leftmost().oracle(predictions([9.0, 0.1]), PROGRESS) == {0}


def test_several_commit_from_left_to_right() -> None:
    assert committed(2.0, 3.0) == [[0, 1, 0, 1, 0], [1, 1, 1, 0, 0]]
    assert Leftmost(tokens=2).oracle(predictions([9.0, 0.1, 0.2]), PROGRESS) == {0, 1}


def test_no_more_commit_than_there_are() -> None:
    assert committed(9.0, 9.0) == ELIGIBLE
    assert Leftmost(tokens=9).oracle(predictions([9.0, 0.1]), PROGRESS) == {0, 1}


def test_the_number_of_tokens_is_a_value() -> None:
    assert Leftmost(tokens=3).values(PROGRESS) == {"tokens": 3}
    assert Leftmost(tokens=3).structure() == Leftmost().structure()


def test_the_mixture_of_apd_says_how_many_by_itself() -> None:
    window = {"schedule": {"kind": "lookahead"}, "cache": {"kind": "none"}}
    DecodingConfig(**window, commit={"kind": "leftmost"}, verify={"kind": "apd"})
    with pytest.raises(ConfigError, match=r"the mixture says how many.*`commit.tokens`=1"):
        DecodingConfig(**window, commit={"kind": "leftmost", "tokens": 2}, verify={"kind": "apd"})


def test_the_tuner_does_not_try_it() -> None:
    assert not Leftmost.suits(DenoiserSpec(mask_id=9, vocab_size=10, max_length=64))


def test_no_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="`tokens`=0"):
        Leftmost(tokens=0)
