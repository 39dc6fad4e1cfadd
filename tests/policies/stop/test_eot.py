from __future__ import annotations

import math

import pytest
import torch
from rows.made import CANDIDATE, MASK, predictions, rows

from dllmc.policies.standing import BlockProgress
from dllmc.policies.stop.eos import EosStop
from dllmc.policies.stop.eot import EndOfText
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=4, blocks=1)
EOS, WORD = 3, CANDIDATE
NOWHERE = torch.iinfo(torch.int64).max


def cut(
    candidates: list[int],
    doubts: list[float],
    committed: set[int],
    *,
    confidence: float = 0.0,
    tokens: list[int] | None = None,
) -> int | None:
    """Where a block at position 10 is cut, by both sides; `committed` are indices."""
    policy = EndOfText(confidence=confidence)
    places = [10 + index for index in range(len(candidates))]
    values = {n: torch.tensor([v]) for n, v in policy.values(PROGRESS).items()}
    given = [MASK] * len(places) if tokens is None else tokens
    made = rows(
        [doubts],
        ids=torch.tensor([candidates]),
        positions=torch.tensor([places]),
        tokens=torch.tensor([given]),
    )
    flags = torch.tensor([[index in committed for index in range(len(places))]])
    found = policy.cut(made, flags, torch.tensor([EOS]), values)
    assert found is not None
    asked = predictions(doubts, positions=places, tokens=given, candidates=candidates)
    at = {10 + index for index in committed}
    expected = policy.cut_oracle(asked, at, [EOS], PROGRESS)
    assert found.item() == (NOWHERE if expected is None else expected)
    return expected


def test_the_first_end_that_commits_is_the_last_position() -> None:
    candidates = [WORD, EOS, WORD, EOS, EOS]
    assert cut(candidates, [0.1, 5.0, 0.1, 0.2, 0.1], {0, 3, 4}) == 14
    assert cut(candidates, [0.1, 5.0, 0.1, 0.2, 0.1], {1, 3}) == 12


def test_else_the_most_probable_end_of_the_masked_rows() -> None:
    assert cut([WORD, EOS, WORD, EOS], [0.1, 5.0, 0.1, 2.0], {0}) == 14
    assert cut([WORD, EOS, WORD, EOS], [0.1, 2.0, 0.1, 2.0], {0}) == 12
    # Of a row that holds a token the prediction does not count.
    assert cut([WORD, EOS, EOS], [0.1, 0.1, 2.0], {0}, tokens=[MASK, WORD, MASK]) == 13


def test_if_it_is_probable_enough() -> None:
    assert cut([WORD, EOS], [0.1, 3.0], {0}, confidence=0.25) == 12
    assert cut([WORD, EOS], [0.1, 3.0], {0}, confidence=0.26) is None
    assert cut([WORD, EOS], [0.1, math.inf], {0}, confidence=0.0) == 12
    assert cut([WORD, EOS], [0.1, math.inf], {0}, confidence=0.1) is None
    assert cut([WORD, EOS], [0.1, math.inf], {0}, confidence=1e-250) is None


def test_without_an_end_nothing_is_cut() -> None:
    assert cut([WORD, WORD], [0.1, 0.2], {0, 1}) is None


def test_a_model_without_ends_is_never_cut() -> None:
    made = rows([[0.1, 0.2]])
    none = torch.tensor([], dtype=torch.int64)
    found = EndOfText().cut(made, made.masked, none, {"doubt": torch.tensor([math.inf])})
    assert found is not None
    assert found.tolist() == [NOWHERE]


def test_it_is_finished_as_with_eos() -> None:
    responses = [[1, EOS, MASK], [1, MASK, EOS], [1, 2, 2]]
    given = torch.tensor(responses), MASK, torch.tensor([EOS])
    assert EndOfText().finished(*given).tolist() == [True, False, True]
    assert EndOfText().finished(*given).tolist() == EosStop().finished(*given).tolist()
    assert [EndOfText().oracle(row, MASK, [EOS]) for row in responses] == [True, False, True]
    assert EndOfText.cuts


@pytest.mark.parametrize("confidence", [-0.1, 1.5])
def test_a_confidence_that_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match="`confidence`"):
        EndOfText(confidence=confidence)
