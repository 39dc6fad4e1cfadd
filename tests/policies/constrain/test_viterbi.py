from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from constrained.vocabularies import EOS, MASK, PAD, of_pieces
from torch._subclasses.fake_tensor import FakeTensorMode

from dllmc.policies.constrain._automaton import TokenAutomaton, token_automaton
from dllmc.policies.constrain._oracle import advance_oracle, most_probable_oracle
from dllmc.policies.constrain._viterbi import FLOOR, advance, most_probable

TOKENIZER, SPEC = of_pieces("a", "b", "ab", " a")
VOCAB = SPEC.vocab_size
PATTERNS = ["(?:ab)*", "a|ab", "[ab]{3,}", "a+b+", "b"]
AUTOMATA = {pattern: token_automaton(pattern, TOKENIZER, SPEC) for pattern in PATTERNS}


def by_enumeration(
    scores: list[list[float]],
    fixed: list[int],
    state: int,
    remaining: int,
    automaton: TokenAutomaton,
) -> tuple[list[int], int]:
    best: tuple[float, list[int], int] | None = None
    for tokens in itertools.product(range(VOCAB), repeat=len(fixed)):
        if any(known not in (-1, token) for token, known in zip(tokens, fixed, strict=True)):
            continue
        end = advance_oracle(tokens, state, automaton)
        if automaton.distance[end] > remaining:
            continue
        rows = zip(scores, tokens, fixed, strict=True)
        total = math.fsum(max(row[t], FLOOR) for row, t, known in rows if known < 0)
        if best is None or total > best[0]:
            best = (total, [*tokens], end)
    return (list(fixed), automaton.dead) if best is None else best[1:]


def for_one(
    scores: list[list[float]],
    fixed: list[int],
    state: int,
    remaining: int,
    automaton: TokenAutomaton,
) -> tuple[list[int], int]:
    ids, end = most_probable(
        torch.tensor([scores]),
        torch.tensor([fixed]),
        torch.tensor([state]),
        torch.tensor([remaining]),
        automaton,
    )
    return ids[0].tolist(), int(end)


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def drawn(seed: int, length: int, automaton: TokenAutomaton) -> Inputs:
    """Three rows of log probabilities, committed tokens, states before, positions after."""
    draw = torch.Generator().manual_seed(seed)
    size = (3, length)
    # Multiples of 1/4 add up exactly in any order, and are often equal; some are impossible.
    scores = torch.randint(-8, 1, (*size, VOCAB), generator=draw) / 4
    scores[torch.rand(scores.shape, generator=draw) < 0.1 * (seed % 3)] = -math.inf
    kept = torch.rand(size, generator=draw) < 0.2
    fixed = torch.where(kept, torch.randint(VOCAB, size, generator=draw), -1)
    state = torch.randint(automaton.dead + 1, (3,), generator=draw)
    return scores, fixed, state, torch.randint(4, (3,), generator=draw)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all_strings_that_can_be_completed(pattern: str, seed: int) -> None:
    automaton = AUTOMATA[pattern]
    inputs = drawn(seed, 3, automaton)
    ids, end = most_probable(*inputs, automaton)
    for row, given in enumerate(zip(*(value.tolist() for value in inputs), strict=True)):
        expected = by_enumeration(*given, automaton)
        assert most_probable_oracle(*given, automaton) == expected
        assert (ids[row].tolist(), int(end[row])) == expected


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(8))
def test_tensors_say_what_the_oracle_says_of_each_row(pattern: str, seed: int) -> None:
    automaton, length = AUTOMATA[pattern], 2 + seed
    inputs = drawn(seed, length, automaton)
    if seed % 2:
        inputs[0].add_(torch.randn_like(inputs[0]))
    sizes = [length, length - 1, seed % 3]
    valid = torch.arange(length) < torch.tensor(sizes)[:, None]
    ids, end = most_probable(*inputs, automaton, valid)
    rows = zip(*(value.tolist() for value in inputs), strict=True)
    for row, (size, (scores, fixed, state, remaining)) in enumerate(zip(sizes, rows, strict=True)):
        found = most_probable_oracle(scores[:size], fixed[:size], state, remaining, automaton)
        assert (ids[row, :size].tolist(), int(end[row])) == found
        assert ids[row, size:].tolist() == fixed[size:]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_advance_says_what_its_oracle_says(pattern: str) -> None:
    automaton = AUTOMATA[pattern]
    tokens, state = torch.randint(VOCAB, (60, 3)), torch.randint(automaton.dead + 1, (60,))
    sizes = torch.randint(4, (60,))
    ends = advance(tokens, state, automaton, torch.arange(3) < sizes[:, None])
    rows = zip(tokens.tolist(), state.tolist(), sizes.tolist(), strict=True)
    assert ends.tolist() == [advance_oracle(row[:n], start, automaton) for row, start, n in rows]


def flat(length: int) -> list[list[float]]:
    return [[0.0] * VOCAB for _ in range(length)]


def test_of_equal_strings_the_lowest_tokens_win_from_the_left() -> None:
    A, AB, SPACED = 3, 5, 6  # noqa: N806
    assert for_one(flat(1), [-1], 0, 0, AUTOMATA["a|ab"])[0] == [A]
    assert for_one(flat(2), [-1, -1], 0, 0, AUTOMATA["a|ab"])[0] == [A, EOS]
    assert for_one(flat(2), [-1, -1], 0, 9, AUTOMATA["(?:ab)*"])[0] == [EOS, PAD]
    scores = flat(1)
    scores[0][AB] = scores[0][SPACED] = 1.0
    assert for_one(scores, [-1], 0, 0, AUTOMATA["a|ab"])[0] == [AB]


def test_what_could_not_be_completed_is_not_begun() -> None:
    automaton = token_automaton("a|bbbb", TOKENIZER, SPEC)
    scores = flat(1)
    scores[0][4] = 5.0
    assert [for_one(scores, [-1], 0, left, automaton)[0] for left in (2, 3)] == [[3], [4]]


def test_committed_tokens_stay_and_the_rest_fits_around_them() -> None:
    ids, end = for_one(flat(4), [-1, -1, 4, -1], 0, 0, AUTOMATA["a+b+"])
    assert ids == [3, 3, 4, EOS]
    assert AUTOMATA["a+b+"].distance[end] == 0


def test_where_nothing_is_allowed_the_block_stays_as_it_was() -> None:
    automaton = AUTOMATA["b"]
    for fixed, state in ([-1, MASK], 0), ([3, -1], 0), ([-1, -1], automaton.dead):
        assert for_one(flat(2), fixed, state, 5, automaton) == (fixed, automaton.dead)


def test_a_token_of_probability_zero_is_better_than_a_text_that_is_not_allowed() -> None:
    scores = [[-math.inf] * VOCAB for _ in range(3)]
    scores[0][3] = scores[1][3] = -7.0
    assert for_one(scores, [-1] * 3, 0, 0, AUTOMATA["b"])[0] == [4, EOS, PAD]
    assert for_one(scores, [-1] * 3, 0, 0, AUTOMATA["[ab]{3,}"])[0][:2] == [3, 3]


def test_logits_choose_what_log_probabilities_choose() -> None:
    logits = torch.randn(4, 6, VOCAB) * 3
    rest = (torch.full((4, 6), -1), torch.zeros(4).long(), torch.zeros(4).long())
    for automaton in AUTOMATA.values():
        from_logits = most_probable(logits, *rest, automaton)
        normalised = most_probable(logits.double().log_softmax(-1), *rest, automaton)
        assert torch.equal(from_logits[0], normalised[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_precision_are_taken(dtype: torch.dtype) -> None:
    scores = torch.randn(2, 5, VOCAB).to(dtype)
    automaton = AUTOMATA["[ab]{3,}"]
    zeros = torch.zeros(2).long()
    ids, _ = most_probable(scores, torch.full((2, 5), -1), zeros, zeros, automaton)
    for row in range(2):
        found = most_probable_oracle(scores[row].tolist(), [-1] * 5, 0, 0, automaton)
        assert ids[row].tolist() == found[0]


def test_blocks_one_after_the_other_make_an_allowed_response() -> None:
    automaton = AUTOMATA["[ab]{3,}"]
    logits, state = torch.randn(8, 12, VOCAB), torch.zeros(8).long()
    response = []
    for left, block in zip((8, 4, 0), logits.split(4, dim=1), strict=True):
        remaining = torch.full((8,), left)
        ids, state = most_probable(block, torch.full((8, 4), -1), state, remaining, automaton)
        response.append(ids)
    assert (automaton.distance[state] == 0).all()
    whole = torch.cat(response, dim=1)
    assert torch.equal(advance(whole, torch.zeros(8).long(), automaton), state)


def test_it_never_waits_for_the_device() -> None:
    # Whatever needs a value on the host fails on fake tensors.
    automaton = AUTOMATA["a+b+"]
    with FakeTensorMode() as mode:
        tensors: dict[str, Any] = {
            name: mode.from_tensor(getattr(automaton, name))
            for name in ("classes", "table", "source", "label", "target", "distance")
        }
        fake = replace(automaton, **tensors)
        fixed, state = torch.full((3, 4), -1), torch.zeros(3).long()
        ids, end = most_probable(torch.rand(3, 4, VOCAB), fixed, state, state, fake, fixed < 0)
        after = advance(ids, state, fake, fixed < 0)
    assert (ids.shape, end.shape, after.shape) == ((3, 4), (3,), (3,))
    assert {ids.dtype, end.dtype, after.dtype} == {torch.int64}
