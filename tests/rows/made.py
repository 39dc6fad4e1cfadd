"""`Rows` and `Prediction`s for the tests of policies: what one evaluation says, on both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllmc.kernels import implementation
from dllmc.kernels.head_statistics import greedy
from dllmc.policies.config import DecodingConfig
from dllmc.policies.rows import Prediction, Rows
from dllmc.reference.evaluation import predict
from dllmc.spec import DenoiserSpec, statistics_name, statistics_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllmc.policies.rows import Remembered

VOCAB, MASK, CANDIDATE, OTHER = 5, 4, 1, 2
SLOTS = 96  # positions of a canvas; the next one is scratch
SPEC = DenoiserSpec(mask_id=MASK, vocab_size=VOCAB, max_length=SLOTS)
GREEDY = DecodingConfig()


def predictions(
    doubts: Sequence[float],
    *,
    positions: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    candidates: Sequence[int] | None = None,
) -> list[Prediction]:
    """Predictions of these doubts, of masked rows from position 0 on if nothing else is said.

    Beside the candidate there is one other token; it is the mask where it is the more probable.
    """
    places = range(len(doubts)) if positions is None else positions
    standing = [MASK] * len(doubts) if tokens is None else tokens
    best = [CANDIDATE] * len(doubts) if candidates is None else candidates
    found = []
    for doubt, position, token, candidate in zip(doubts, places, standing, best, strict=True):
        other = MASK if doubt > 1 else OTHER if candidate != OTHER else OTHER + 1
        logits = np.full(VOCAB, -np.inf)
        logits[candidate] = 0.0
        logits[other] = math.log(doubt) if doubt > 0 else -np.inf
        found.append(
            Prediction(
                position=position,
                token=token,
                masked=token == MASK,
                candidate=candidate,
                logit=0.0,
                margin=math.inf if other == MASK else -float(logits[other]),
                tail_mass=doubt,
                doubt=doubt,
                logits=logits,
                mask_id=MASK,
            )
        )
    return found


def rows(
    doubt: Tensor | Sequence[Sequence[float]],
    eligible: Tensor | Sequence[Sequence[bool]] | None = None,
    **fields: Any,
) -> Rows:
    """Rows of these doubts `[N, L]`, masked and eligible if nothing else is said.

    Args:
        doubt: The tail mass too.
        eligible: Those that may commit; all that are masked otherwise.
        **fields: Of `Rows`, as they shall be.
    """
    doubt = torch.as_tensor(doubt)
    count, length = doubt.shape
    none = torch.zeros(count, dtype=torch.bool)
    tokens = fields.get("tokens", torch.full_like(doubt, MASK, dtype=torch.int64))
    offered = fields.get("offered", torch.ones_like(doubt, dtype=torch.bool))
    masked = offered & (tokens == MASK)
    made: dict[str, Any] = {
        "mask_id": MASK,
        "positions": torch.arange(length).expand(count, -1),
        "tokens": tokens,
        "offered": offered,
        "masked": masked,
        "eligible": masked if eligible is None else torch.as_tensor(eligible).bool(),
        "ids": torch.full_like(doubt, CANDIDATE, dtype=torch.int64),
        "logits": torch.zeros_like(doubt),
        "tail": doubt,
        "doubt": doubt,
        "single": none,
        "waits": none,
        "counters": torch.zeros(count, 3, dtype=torch.int64),
        "vocab_size": VOCAB,
    }
    return Rows(**(made | fields))


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of N decisions, for the tensor functions and for the oracles.

    Attributes:
        rows: `[N, L]`.
        predictions: Of the offered rows of each decision, in order of position.
    """

    rows: Rows
    predictions: list[list[Prediction]]

    def at(self, decision: int, chosen: Tensor) -> set[int]:
        """Positions of the offered rows that are `chosen`, `[N, L]` bool."""
        places = self.rows.positions[decision].tolist()
        return {p for p, flag in zip(places, chosen[decision].tolist(), strict=True) if flag}


def matching(
    logits: Tensor,
    *,
    needs: Iterable[str] = (),
    dtype: torch.dtype = torch.float64,
    memory: Mapping[str, Tensor] | None = None,
    **fields: Any,
) -> Evaluated:
    """Rows and predictions from the same logits `[N, L, V]`, those of the rows rounded to `dtype`.

    Args:
        logits: In float64.
        needs: Statistics beyond the basic ones, as policies name them.
        dtype: Of the rows.
        memory: What policies remember, as it stands.
        **fields: Of `Rows`, as they shall be.
    """
    rounded = logits.to(dtype)
    ids, chosen, tail = greedy(rounded, MASK)
    memory = {} if memory is None else memory
    found = rows(tail, ids=ids, logits=chosen, memory=memory, **fields)
    found = found.having(extra=extras(rounded, ids, needs, memory))
    return Evaluated(found, [_predictions(logits[n], found, n) for n in range(len(found.offered))])


def extras(
    logits: Tensor, ids: Tensor, needs: Iterable[str], memory: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`Rows.extra` of logits `[N, L, V]`, by the reference operators."""
    _, parts = statistics_parts(statistics_name("greedy", needs))
    found: dict[str, Tensor] = {}
    for name, count in parts.items():
        if name == "entropy":
            found["entropy"] = implementation("entropy", "torch")(logits)
        elif name == "second":
            found["second"] = implementation("second", "torch")(logits, ids, MASK)
        elif name == "logits":
            found["all"] = implementation("all_logits", "torch")(logits)
        elif name == "top":
            top = implementation("top", "torch")(logits, MASK, count)
            found["top_ids"], found["top_logits"] = top
        elif name == "gather":
            wanted = memory["score.ids"]
            found["gathered"] = implementation("gather_logits", "torch")(logits, wanted)
    return found


class Store:
    """What a policy remembers of N sequences, kept as the runtime keeps it.

    Numbers stand in the dtype of the rows, so that in float64 nothing is rounded in between.
    """

    def __init__(self, entries: Mapping[str, Remembered], count: int, dtype: torch.dtype) -> None:
        self._entries = entries
        self._held: dict[str, Tensor] = {}
        for name, entry in entries.items():
            declared = getattr(torch, entry.dtype)
            kept = dtype if declared.is_floating_point else declared
            places = (SLOTS + 1,) if entry.per == "position" else ()
            self._held[name] = torch.full((count, *places, *entry.shape), entry.fill, dtype=kept)

    def recall(self, positions: Tensor) -> dict[str, Tensor]:
        """What is remembered at `positions` `[N, L]`."""
        return {name: held[self._place(name, positions)] for name, held in self._held.items()}

    def keep(self, positions: Tensor, memory: Mapping[str, Tensor]) -> None:
        """Put back what `recall` gave, changed."""
        assert memory.keys() == self._held.keys()
        for name, held in self._held.items():
            assert memory[name].is_floating_point() == held.is_floating_point()
            held[self._place(name, positions)] = memory[name].to(held.dtype)

    def _place(self, name: str, positions: Tensor) -> tuple[Tensor, ...]:
        each = torch.arange(len(positions))
        if self._entries[name].per == "sequence":
            return (each,)
        return each[:, None], positions


def _predictions(logits: Tensor, found: Rows, decision: int) -> list[Prediction]:
    table: NDArray[np.float64] = logits.double().numpy()
    seed, stream, draws = found.counters[decision].tolist()
    positions, tokens = found.positions[decision].tolist(), found.tokens[decision].tolist()
    counters = seed, stream, draws
    return [
        predict(table[i], positions[i], positions[i], tokens[i], SPEC, GREEDY, counters)
        for i, offered in enumerate(found.offered[decision].tolist())
        if offered
    ]
