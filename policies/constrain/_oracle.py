"""What `_viterbi` computes, in plain Python for one row."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from dllmc.policies.constrain._viterbi import FLOOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.policies.constrain._automaton import TokenAutomaton


def most_probable_oracle(
    log_probs: Sequence[Sequence[float]],
    fixed: Sequence[int],
    state: int,
    remaining: int,
    automaton: TokenAutomaton,
) -> tuple[list[int], int]:
    """The best string of a block and the state after it: for each state, from the last position
    to the first, the best rest of the block."""
    classes, edges, distance = _in_python(automaton)
    rests: dict[int, tuple[float, tuple[int, ...], int]] = {
        end: (0.0, (), end) for end, away in enumerate(distance) if away <= remaining
    }
    for scores, committed in zip(reversed(log_probs), reversed(fixed), strict=True):
        offers = _best_of_classes(scores, committed, classes)
        longer: dict[int, tuple[float, tuple[int, ...], int]] = {}
        for (source, label), target in edges.items():
            if label not in offers or target not in rests:
                continue
            score, token = offers[label]
            total, rest, end = rests[target]
            known = longer.get(source)
            if known is None or (score + total, -token) > (known[0], -known[1][0]):
                longer[source] = (score + total, (token, *rest), end)
        rests = longer
    if state not in rests:
        return list(fixed), automaton.dead
    return list(rests[state][1]), rests[state][2]


def advance_oracle(tokens: Sequence[int], state: int, automaton: TokenAutomaton) -> int:
    """The state after committed tokens."""
    classes, edges, _ = _in_python(automaton)
    for token in tokens:
        state = edges.get((state, classes[token]), automaton.dead)
    return state


def _best_of_classes(
    scores: Sequence[float], committed: int, classes: Sequence[int]
) -> dict[int, tuple[float, int]]:
    """The most probable token of each class, the lowest id of several."""
    if committed >= 0:
        return {classes[committed]: (0.0, committed)}
    offers: dict[int, tuple[float, int]] = {}
    for token, (score, label) in enumerate(zip(scores, classes, strict=True)):
        floored = max(score, FLOOR)
        if label not in offers or floored > offers[label][0]:
            offers[label] = (floored, token)
    return offers


@functools.lru_cache(maxsize=8)
def _in_python(
    automaton: TokenAutomaton,
) -> tuple[list[int], dict[tuple[int, int], int], list[float]]:
    columns = (automaton.source.tolist(), automaton.label.tolist(), automaton.target.tolist())
    edges = {(source, label): target for source, label, target in zip(*columns, strict=True)}
    return automaton.classes.tolist(), edges, automaton.distance.tolist()
