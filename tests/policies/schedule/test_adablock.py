from __future__ import annotations

import math

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.config import DecodingConfig
from dllmc.policies.schedule.adablock import AdaBlock
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, DenoiserSpec

OPENING = BlockProgress(step=0, masks=8, blocks=1, remaining=8, length=8, offset=0, response=16)
LINE, DOT, WORD = 1, 2, 3


def ending(
    policy: AdaBlock, probabilities: list[float], candidates: list[int], first: int = 10
) -> int:
    """Where the block that opens at `first` ends, by both sides."""
    doubts = [(1 - p) / p for p in probabilities]
    positions = list(range(first, first + len(doubts)))
    asked = predictions(doubts, positions=positions, candidates=candidates)
    expected = policy.end_oracle(asked, OPENING)
    values = {n: torch.tensor([v]).float() for n, v in policy.values(OPENING).items()}
    made = rows([doubts], positions=torch.tensor([positions]), ids=torch.tensor([candidates]))
    assert policy.end(made, values).tolist() == [expected]
    return expected


def test_a_block_ends_with_its_surest_delimiter() -> None:
    policy = AdaBlock(block_length=4, threshold=0.3, lookahead=0.5, delimiters=(LINE, DOT))
    candidates = [WORD, LINE, WORD, DOT, WORD, LINE, WORD, WORD]
    assert ending(policy, [0.9, 0.5, 0.9, 0.4, 0.9, 0.6, 0.9, 0.9], candidates) == 16
    assert ending(policy, [0.9, 0.5, 0.9, 0.7, 0.9, 0.6, 0.9, 0.9], candidates) == 14


def test_of_equals_the_first_counts() -> None:
    policy = AdaBlock(block_length=4, threshold=0.3, lookahead=0.5, delimiters=(LINE,))
    assert ending(policy, [0.5] * 8, [WORD, WORD, LINE, WORD, LINE, WORD, WORD, WORD]) == 13


def test_a_delimiter_must_reach_the_threshold() -> None:
    policy = AdaBlock(block_length=4, threshold=0.5, lookahead=0.5, delimiters=(LINE,))
    candidates = [WORD] * 5 + [LINE] + [WORD] * 2
    assert ending(policy, [0.9] * 5 + [0.5] + [0.9] * 2, candidates) == 16
    assert ending(policy, [0.9] * 5 + [0.49] + [0.9] * 2, candidates) == 14


def test_delimiters_are_looked_for_in_a_share_of_the_response() -> None:
    policy = AdaBlock(block_length=8, threshold=0.1, lookahead=0.25, delimiters=(LINE,))
    assert ending(policy, [0.9] * 8, [WORD] * 3 + [LINE] + [WORD] * 4) == 14
    assert ending(policy, [0.9] * 8, [WORD] * 4 + [LINE] + [WORD] * 3) == 18


def test_no_probability_reaches_a_threshold_over_1() -> None:
    policy = AdaBlock(block_length=4, threshold=2, lookahead=0.5, delimiters=(LINE,))
    assert ending(policy, [1.0] * 8, [LINE] * 8) == 14


def test_the_window_holds_the_share_and_a_block_and_ends_with_the_response() -> None:
    policy = AdaBlock(block_length=8, lookahead=0.25)
    assert [policy.window(offset, 64) for offset in (0, 40, 52)] == [16, 16, 12]
    assert [policy.window(offset, 20) for offset in (0, 16)] == [8, 4]


def test_a_block_that_has_begun_keeps_its_end() -> None:
    policy = AdaBlock(block_length=4, threshold=0.3, lookahead=0.5, delimiters=(LINE,))
    later = BlockProgress(step=1, masks=7, blocks=1, remaining=3, offset=0, response=16)
    values = {n: torch.tensor([v]).float() for n, v in policy.values(later).items()}
    made = rows([[0.0, 0.0]], positions=torch.tensor([[12, 16]]), ids=torch.tensor([[LINE] * 2]))
    assert policy.end(made, values).item() > 16


def test_without_delimiters_its_blocks_are_fixed() -> None:
    assert AdaBlock(block_length=8).blocks(19) == [(0, 8), (8, 16), (16, 19)]


@pytest.mark.parametrize(
    "commit",
    [{"kind": "quota", "steps": 4}, {"kind": "timesteps"}, {"kind": "dynamic", "steps": 4}],
)
def test_commits_that_share_a_block_over_its_evaluations_are_refused(
    commit: dict[str, object],
) -> None:
    with pytest.raises(ConfigError, match=r"do not go together.* use 'threshold'"):
        DecodingConfig(schedule={"kind": "adablock"}, commit=commit)


@pytest.mark.parametrize(
    "commit", [{"kind": "quota"}, {"kind": "dynamic"}, {"kind": "factor"}, {"kind": "threshold"}]
)
def test_other_commits_go_with_it(commit: dict[str, object]) -> None:
    assert DecodingConfig(schedule={"kind": "adablock"}, commit=commit).schedule.adapts


def test_delimiters_are_shared_by_what_is_evaluated_together() -> None:
    assert AdaBlock(delimiters=(1,)).structure() != AdaBlock(delimiters=(2,)).structure()
    assert AdaBlock(threshold=0.2).structure() == AdaBlock(block_length=8).structure()


@pytest.mark.parametrize(
    "fields", [{"block_length": 0}, {"threshold": 0}, {"threshold": math.inf}, {"lookahead": 1.5}]
)
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        AdaBlock(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, 9, 10])
def test_a_delimiter_that_is_never_predicted_is_refused(token: int) -> None:
    spec = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    AdaBlock(delimiters=(0, 8)).check_model(spec)
    with pytest.raises(ConfigError, match=rf"holds {token}, .* from 0 to 9 but the mask 9"):
        AdaBlock(delimiters=(0, token)).check_model(spec)
