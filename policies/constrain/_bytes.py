"""Finite automata over the bytes of UTF-8 text, from regular expressions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from outlines_core import Index
    from torch import Tensor

_BYTES = 256
# Characters around the expression. outlines-core builds automata that search (not anchored) and
# prefer the leftmost branch: without an end, that of `a|ab` never accepts "ab", and that of `a*?`
# nothing but "". The empty branch before the beginning stops the search there, which else tracks
# every place where a match may begin: any JSON value takes 0.2 s with it and 275 s without.
# Two bytes begin, since version 0.2.14 loses single bytes that leave a matching state. No text has
# the end in it; one byte, for states double with a noncharacter of four.
_BEGIN, _END = "\x01\x01", "\x00"
_BEGUN, _ENDED = _BYTES, _BYTES + 1
# What `str.strip` leaves alone; it removes more than Rust's `\s` knows.
_STRIPPED = r"(?s:(?:[^\s\x1c-\x1f](?:.*[^\s\x1c-\x1f])?)?)"


@dataclass(frozen=True, slots=True)
class ByteMachine:
    """A deterministic automaton whose first state is the start and the last dead.

    Attributes:
        table: Next state by state and byte, `[Q, 256]` int64.
        accepting: `[Q]` bool.
    """

    table: Tensor
    accepting: Tensor


@functools.lru_cache(maxsize=64)
def text_machine(pattern: str) -> ByteMachine:
    """Accepts each text that is a full match of `pattern` once `str.strip` has passed over it.

    Before a match it takes one space at most, after it none. Matches that begin or end with white
    space themselves are left out: stripped, they may match no longer.

    Raises:
        ConfigError: The pattern is no regular expression, or one beyond finite automata, or it
            matches nothing but what begins or ends with white space.
    """
    machine = _smallest(_both(_machine(pattern), _machine(_STRIPPED)))
    if not machine.accepting.any():
        raise ConfigError(
            "it matches only texts with white space around them, if any, and all output is "
            "stripped of that; leave it out"
        )
    return _smallest(_after_optional_space(machine))


def alike(rows: Tensor) -> Tensor:
    """Numbers `rows` `[n, k]`, equal ones alike, `[n]`."""
    # One integer for each row: `torch.unique(dim=0)` compares rows and takes 30 times as long.
    seeded = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, rows.shape[1:], generator=seeded)
    number: Tensor = torch.unique((rows * weights).sum(dim=1), return_inverse=True)[1]
    if not torch.equal(rows[first_of_each(number)][number], rows):
        raise AssertionError("two rows have one hash")
    return number


def first_of_each(number: Tensor) -> Tensor:
    """The first place of each number from 0 to the largest."""
    places = torch.arange(len(number))
    unset = torch.full((int(number.max()) + 1,), len(number))
    return unset.scatter_reduce(0, number, places, "amin")


@functools.lru_cache(maxsize=64)
def _machine(pattern: str) -> ByteMachine:
    # First without parentheses: what is only right inside them, as `a)(b`, is wrong.
    _index(f"{pattern}|")
    index = _index(f"{_BEGIN}(?:{pattern}){_END}|")
    moves = index.get_transitions()
    start = moves[index.get_initial_state()][_BEGUN]
    others = {*moves}.union(*(row.values() for row in moves.values())) - {start}
    number = {state: place for place, state in enumerate([start, *sorted(others)])}
    table = torch.full((len(number) + 1, _BYTES), len(number))
    for state, row in moves.items():
        steps = {byte: number[after] for byte, after in row.items() if byte < _BYTES}
        table[number[state], list(steps)] = torch.tensor(list(steps.values()), dtype=torch.int64)
    matched = torch.zeros(len(table), dtype=torch.bool)
    matched[[number[state] for state in index.get_final_states()]] = True
    return ByteMachine(table, matched[table[:, ord(_END)]])


def _index(expression: str) -> Index:
    from outlines_core import Index, Vocabulary

    # Its automaton over bytes is all that is used. Its automata over tokens fail where the
    # vocabulary cannot spell one branch of several, and know no end of a fixed canvas.
    tokens = {bytes([byte]): [byte] for byte in range(_BYTES)} | {_BEGIN.encode(): [_BEGUN]}
    try:
        return Index(expression, Vocabulary(_ENDED, tokens))
    except ValueError as error:
        reason = str(error).splitlines()[0]
    if "vocabulary" in reason:  # any byte is in it, so this is a branch that ends nowhere
        reason = "a part of it matches nothing"
    raise ConfigError(
        f"{reason}; the whole text is matched, by a finite automaton: check the syntax, and leave "
        "out `^`, `$`, `\\b`, look-around and back-references"
    )


def _both(left: ByteMachine, right: ByteMachine) -> ByteMachine:
    """Accepts what both accept. A state is a pair, as one number; dead is the largest."""
    width = len(right.table)
    dead = len(left.table) * width - 1

    def step(pairs: Tensor) -> Tensor:
        first, second = left.table[pairs // width], right.table[pairs % width]
        lost = (first == len(left.table) - 1) | (second == width - 1)
        return torch.where(lost, dead, first * width + second)

    pairs = fresh = torch.tensor([0, dead])
    while len(fresh):
        reached = step(fresh).unique()
        fresh = reached[~torch.isin(reached, pairs)]
        pairs = torch.cat((pairs, fresh))
    pairs = pairs.sort()[0]
    accepting = left.accepting[pairs // width] & right.accepting[pairs % width]
    return ByteMachine(torch.searchsorted(pairs, step(pairs)), accepting)


def _after_optional_space(machine: ByteMachine) -> ByteMachine:
    """Accepts the same, with or without a space before it; nothing of it begins with one."""
    start = machine.table[0] + 1
    start[ord(" ")] = 1
    table = torch.cat((start[None], machine.table + 1))
    return ByteMachine(table, torch.cat((machine.accepting[:1], machine.accepting)))


def _smallest(machine: ByteMachine) -> ByteMachine:
    """The smallest machine that accepts the same (Moore's refinement)."""
    # That of any JSON object has 2,073 states and needs 294.
    columns = torch.unique(machine.table, dim=1)
    group, count = machine.accepting.long(), 0
    while int(group.max()) >= count:
        count = int(group.max()) + 1
        group = alike(torch.cat((group[:, None], group[columns]), dim=1))
    first = first_of_each(group)
    place = first.clone()
    place[group[-1]] = len(group)  # dead stays last
    order = place.argsort()
    kept = first[order]
    return ByteMachine(order.argsort()[group[machine.table[kept]]], machine.accepting[kept])
