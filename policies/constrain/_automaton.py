"""Which strings of tokens write an allowed text, as a finite automaton."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from dllmc.policies.constrain._bytes import ByteMachine, alike, first_of_each, text_machine
from dllmc.policies.constrain._vocabulary import Spelling, spelling, tree_of
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from dllmc.spec import DenoiserSpec

# States that are walked at once: 32 of them by the 250,000 nodes of a large vocabulary are 64 MB.
_CHUNK = 32


@dataclass(frozen=True, slots=True, eq=False)
class TokenAutomaton:
    """A deterministic automaton over tokens.

    Each of its Q states can still reach an accepting one; state Q is dead. Tokens that lead to the
    same state from every state are one class; those of class 0 lead nowhere. Over 32,000 tokens
    any JSON object has 195 classes, and by class it has 4,703 edges, by token 523,398.

    Attributes:
        start: Before the first token of a response.
        shortest: Tokens of the shortest text.
        classes: Class of each token, `[V]`.
        table: Next state by state and class, `[Q + 1, C]`.
        source: State that each edge leaves, ascending, `[E]`; the edges are the entries of `table`
            that are not dead.
        label: Class of each edge, `[E]`.
        target: State that each edge enters, `[E]`.
        distance: Fewest tokens from each state to an accepting one, infinite where dead,
            `[Q + 1]` float32.
    """

    start: int
    shortest: int
    classes: Tensor
    table: Tensor
    source: Tensor
    label: Tensor
    target: Tensor
    distance: Tensor

    @property
    def dead(self) -> int:
        """The state that no accepting one can be reached from."""
        return len(self.table) - 1

    def to(self, device: torch.device | str) -> TokenAutomaton:
        """The same with its tensors on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in values.items() if hasattr(value, "to")
        }
        return replace(self, **tensors)


# Over 32,000 tokens a record of three fields takes 0.3 s, any JSON object 1.7 s.
@functools.lru_cache(maxsize=8)
def token_automaton(pattern: str, tokenizer: Tokenizer, spec: DenoiserSpec) -> TokenAutomaton:
    """The responses whose text, as decoded and stripped, is a full match of `pattern`.

    A text may begin with one space more than it matches with, as the answers of models do whose
    words carry the space before them; white space is not added elsewhere. After the text comes an
    end-of-sequence token and nothing but such and padding, to fill a canvas of any length. Special
    tokens, the mask among them, are never part of the text.

    Args:
        pattern: A regular expression of Rust's `regex` crate, for the whole text.
        tokenizer: Compared by identity, for what was built is kept.
        spec: Says what the mask, the end of a sequence and padding are.

    Raises:
        ConfigError: The pattern cannot be used, the vocabulary cannot write a text that matches,
            or nothing ends a text.
    """
    spelled = spelling(tokenizer)
    ends = [token for token in spec.eos_ids if token in spelled.silent]
    if not ends:
        raise ConfigError(
            f"`eos_ids`={spec.eos_ids} names no special token of the tokenizer, and a constrained "
            "text needs one to end with; decode with `constrain` = {'kind': 'none'}"
        )
    outside = torch.tensor(
        [i for i in (spec.mask_id, spec.pad_id, *spec.eos_ids) if i is not None]
    )
    tokens = torch.tensor([*spelled.written])
    usable = ~torch.isin(tokens, outside) & (tokens < spec.vocab_size)
    written, table, accepting = _over_tokens(text_machine(pattern), spelled, usable)
    classes = torch.zeros(spec.vocab_size, dtype=torch.int64)
    classes[tokens[usable]] = written
    # Two more classes: what ends a text, and what may only follow an end.
    classes[ends] = table.shape[1]
    for token in spelled.silent & {spec.pad_id} - {spec.mask_id, *ends}:
        classes[token] = table.shape[1] + 1
    found = _pruned(classes, *_with_end(table, accepting))
    if found is None:
        raise ConfigError(
            f"the vocabulary of this model can write no text that matches {pattern!r:.100}; allow "
            "other texts or decode with `constrain` = {'kind': 'none'}"
        )
    return found


def check_length(automaton: TokenAutomaton, response_length: int) -> None:
    """Raise `ConfigError` if no allowed text fits into `response_length` tokens."""
    if automaton.shortest > response_length:
        raise ConfigError(
            f"the shortest text that `constrain` allows has {automaton.shortest} tokens, and the "
            f"response has {response_length}; ask for at least {automaton.shortest}"
        )


def _over_tokens(
    machine: ByteMachine, spelled: Spelling, usable: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Class of each usable token from 1, next state by state and class, and who accepts.

    The states are those that whole tokens reach, the start first and the dead one last.
    """
    seen = torch.zeros(len(machine.table), dtype=torch.bool)
    fresh = torch.tensor([0, len(seen) - 1])
    classes = torch.ones(int(usable.sum()), dtype=torch.int64)
    while len(fresh):
        seen[fresh] = True
        reached = seen.clone()
        for part in fresh.split(_CHUNK):
            after = spelled.tree.walk(machine.table, part)[:, usable]
            classes = 1 + alike(torch.cat((classes[:, None], after.T), dim=1))
            reached[after.flatten()] = True
        fresh = (reached & ~seen).nonzero()[:, 0]
    states = seen.nonzero()[:, 0]
    texts = [*spelled.written.values()]
    examples = usable.nonzero()[:, 0][first_of_each(classes - 1)].tolist()
    after = tree_of([texts[example] for example in examples]).walk(machine.table, states)
    table = torch.searchsorted(states, after)
    nothing = torch.full((len(states), 1), len(states) - 1)
    return classes, torch.cat((nothing, table), dim=1), machine.accepting[states]


def _with_end(table: Tensor, accepting: Tensor) -> tuple[Tensor, Tensor]:
    """The same with a state before the dead one that is entered by an end and never left."""
    ended = dead = len(table) - 1
    table = torch.where(table == dead, dead + 1, table)
    table = torch.cat((table[:-1], torch.full_like(table[:2], dead + 1)))
    end, filler = torch.full((2, len(table)), dead + 1)
    end[:-2][accepting[:-1]] = ended
    end[ended] = filler[ended] = ended
    accepting = torch.cat((accepting[:-1], torch.tensor([True, False])))
    return torch.cat((table, end[:, None], filler[:, None]), dim=1), accepting


def _pruned(classes: Tensor, table: Tensor, accepting: Tensor) -> TokenAutomaton | None:
    """Without states that cannot reach an accepting one; None where the start is such a state."""
    distance = torch.where(accepting, 0.0, torch.inf)
    while True:
        nearer = torch.minimum(distance, 1 + distance[table].amin(dim=1))
        if torch.equal(nearer, distance):
            break
        distance = nearer
    live = distance < torch.inf
    if not live[0]:
        return None
    number = torch.where(live, live.cumsum(0) - 1, live.sum())
    table = number[table[torch.cat((live.nonzero()[:, 0], torch.tensor([len(table) - 1])))]]
    distance = torch.cat((distance[live], distance[-1:]))
    source, label = (table < len(table) - 1).nonzero(as_tuple=True)
    target = table[source, label]
    return TokenAutomaton(0, int(distance[0]), classes, table, source, label, target, distance)
