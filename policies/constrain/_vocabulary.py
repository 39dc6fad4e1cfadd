"""The text that each token writes, as bytes."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenizers import Tokenizer
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Texts as a tree of their beginnings, which are walked once however many texts share them.

    Attributes:
        levels: Of the beginnings of each length from 1, which of the level before each continues
            and with which byte.
        nodes: The beginning that is the whole of each text, counted through all levels, `[T]`.
    """

    levels: tuple[tuple[Tensor, Tensor], ...]
    nodes: Tensor

    def walk(self, table: Tensor, states: Tensor) -> Tensor:
        """Where each text leads from `states` `[F]` of a byte automaton, `[F, T]`."""
        before, reached = states[:, None], []
        for parent, byte in self.levels:
            before = table[before[:, parent], byte]
            reached.append(before)
        return torch.cat(reached, dim=1)[:, self.nodes]


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """What the tokens of a vocabulary write.

    Attributes:
        written: By token, ascending; only of those that write something.
        tree: Of what is written, in the same order.
        silent: Special tokens, which decoding leaves out.
    """

    written: Mapping[int, bytes]
    tree: Tree
    silent: frozenset[int]


@functools.lru_cache(maxsize=8)
def spelling(tokenizer: Tokenizer) -> Spelling:
    """What each token of `tokenizer` adds to a decoded text.

    Raises:
        ConfigError: What a token writes depends on its neighbours.
    """
    decoder = json.loads(tokenizer.decoder.__getstate__())["type"] if tokenizer.decoder else None
    if decoder not in ("ByteLevel", "Fuse"):
        raise ConfigError(
            f"`constrain` needs a tokenizer whose decoder is ByteLevel or Fuse, and this one's is "
            f"{decoder}; decode this model with `constrain` = {{'kind': 'none'}}"
        )
    added = tokenizer.get_added_tokens_decoder()
    silent = frozenset(token for token, entry in added.items() if entry.special)
    written = {
        token: _unmapped(piece) if decoder == "ByteLevel" else piece.encode()
        for piece, token in tokenizer.get_vocab().items()
        if piece and token not in silent
    }
    written = dict(sorted(written.items()))
    return Spelling(written, tree_of([*written.values()]), silent)


def tree_of(texts: Sequence[bytes]) -> Tree:
    """The tree of `texts`, none of them empty."""
    beginnings: list[dict[bytes, int]] = [{b"": 0}]
    for text in texts:
        beginnings += [{} for _ in range(len(text) + 1 - len(beginnings))]
        for length in range(1, len(text) + 1):
            level = beginnings[length]
            level.setdefault(text[:length], len(level))
    levels = tuple(
        (torch.tensor([above[text[:-1]] for text in level]), torch.tensor([t[-1] for t in level]))
        for above, level in pairwise(beginnings)
    )
    # Levels are counted from 1, for the empty beginning is no node.
    first = [0, *accumulate((len(level) for level in beginnings[1:]), initial=0)]
    nodes = [first[len(text)] + beginnings[len(text)][text] for text in texts]
    return Tree(levels, torch.tensor(nodes))


def _unmapped(piece: str) -> bytes:
    """The bytes of a byte-level piece; one with a foreign character stands for itself."""
    table = _byte_of_character()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode()


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others are counted from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
