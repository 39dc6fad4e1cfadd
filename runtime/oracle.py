"""The floor of parallel decoding: evaluations needed by someone who knows the final tokens.

What Learn2PD (arXiv 2509.25188) calls extremely greedy parallel decoding (EGP). The final tokens
are those that one token per step gives, with the same block length and no cache. They are decoded
again: every evaluation, without a cache too, commits just those masks of the block whose
candidate is the final token, wherever they stand and however unsure they are. Where there is none
such, the surest mask becomes its final token all the same, so that every evaluation commits
something. A response that ends early ends here too; masks that were left behind the end stay.

It never needs more evaluations than one token per step. Other policies that give the same tokens
block by block should need no fewer, yet that is no theorem: what commits in another order is
predicted in another context. A policy that gives other tokens may well end sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch

from dllmc.policies.axes import Commit, Score
from dllmc.policies.config import QUALITY_REFERENCE
from dllmc.policies.progress import ordered
from dllmc.policies.rows import Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.runtime.engine import Engine
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec

_TARGET = "score.target"


class Floor(NamedTuple):
    """What the oracle needed for one prompt.

    Attributes:
        nfe: Evaluations.
        tokens: The response, masks included that were left behind its end.
        reference_nfe: Evaluations of one token per step.
    """

    nfe: int
    tokens: list[int]
    reference_nfe: int


class _Foresight(Score):
    """A candidate that is the final token stays; if there is none, the surest becomes it."""

    kind: Literal["foresight"] = "foresight"

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        return {_TARGET: Remembered((), "int64", spec.mask_id)}

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        target = rows.memory[_TARGET]
        rows = rows.having(eligible=rows.eligible & (target != rows.mask_id), doubt=rows.tail)
        none = ~(rows.eligible & (rows.ids == target)).any(-1, keepdim=True)
        surest = torch.zeros_like(rows.eligible).scatter(-1, ordered(rows)[:, :1], True)
        return rows.having(ids=torch.where(none & surest, target, rows.ids))

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        raise NotImplementedError("the final tokens stand in the engine's pool")


class _Known(Commit):
    """Every row whose candidate is the final token."""

    may_wait: ClassVar[bool] = True
    kind: Literal["known"] = "known"

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        del values
        return rows.ids == rows.memory[_TARGET]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        raise NotImplementedError("the final tokens stand in the engine's pool")


def floors(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    block_length: int,
    batch: int = 16,
) -> list[Floor]:
    """Evaluations that the oracle needs for each prompt.

    Args:
        engine: Decodes.
        prompts: Token ids of each.
        max_new_tokens: Response length in tokens.
        block_length: Of the schedule.
        batch: Sequences decoded together at most.

    Raises:
        ConfigError: The model cannot be decoded in such blocks.
        PromptError: A prompt does not fit.
    """
    reference = QUALITY_REFERENCE.replace(
        schedule={"kind": "blocks", "block_length": block_length}
    )
    foreseeing = reference.replace(score=_Foresight(), commit=_Known())
    found = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        pool, plain = engine.open(part, reference, max_new_tokens)
        _finish(engine, pool, plain)
        pool, states = engine.open(part, foreseeing, max_new_tokens)
        _tell(pool, states, plain)
        _finish(engine, pool, states)
        found += [Floor(s.nfe, s.response, p.nfe) for s, p in zip(states, plain, strict=True)]
    return found


def block_of(config: DecodingConfig, length: int) -> int:
    """The blocks in which `config` is compared with the oracle, in tokens.

    A schedule without blocks of one length is compared with the whole response as one block.

    Args:
        config: How is decoded.
        length: Of the response, in tokens.
    """
    return int(min(getattr(config.schedule, "block_length", length), length))


def _finish(engine: Engine, pool: Pool, states: Sequence[DecodeState]) -> None:
    while engine.step(pool, states) is not None:
        pass


def _tell(pool: Pool, states: Sequence[DecodeState], final: Sequence[DecodeState]) -> None:
    """Remember the final tokens of each canvas."""
    for state, known in zip(states, final, strict=True):
        entry = state.config.score.remembers(state.spec)[_TARGET]
        tokens = torch.tensor(known.tokens, device=pool.canvas.device)
        pool.memory[_TARGET, entry][state.row, : len(tokens)] = tokens
