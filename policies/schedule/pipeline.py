"""The pipeline of D2F (Discrete Diffusion Forcing, arXiv 2508.09192): blocks decoded side by side.

Published loop: `D2F-eval/eval_llada.py`, `_generate_block_single`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Schedule
from dllmc.policies.standing import Part
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dllmc.spec import DenoiserSpec

_ORDER = "it decodes several blocks at once, and this goes block by block"


class Pipeline(Schedule):
    """The blocks of block-causal attention; the next is begun before the last is finished.

    A block commits what the commit policy selects. It must commit something in every evaluation
    once enough of the block before it is decoded; until then it may wait.

    Attributes:
        add_threshold: Share of the last block that is decoded when the next is begun.
        activate_threshold: Share of the block before that is decoded when a block must go on.
    """

    pipelined: ClassVar[bool] = True
    traits: ClassVar[frozenset[str]] = frozenset({"pipelined"})
    excludes: ClassVar[Mapping[str, str]] = {
        "plans_block": "the evaluations of a block are shared with those of its neighbours",
        "belief.lrd": _ORDER,
        "revise.edit": _ORDER,
        "revise.remask": _ORDER,
        "history": "which rows were masked before says nothing of a block that was just begun",
        "carries": _ORDER,
    }
    kind: Literal["pipeline"] = "pipeline"
    add_threshold: float = knob(0.1, ge=0, le=1, low=0.05, high=1.0, lossy=True)
    activate_threshold: float = knob(0.95, ge=0, le=1, low=0.3, high=1.0, lossy=True)

    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        return [(0, response_length)]

    def begun(
        self, spans: Sequence[tuple[int, int]], masked: Collection[int], begun: int, *, ended: bool
    ) -> int:
        """Blocks that have been begun, after those of the last evaluation.

        Args:
            spans: Of all blocks.
            masked: Positions.
            begun: Blocks before; 0 at first.
            ended: Whether an end of sequence was committed, after which none is begun.
        """
        begun = min(begun, len(spans))
        more = begun < len(spans) and not ended
        return begun + (
            more and (not begun or _decoded(spans[begun - 1], masked) >= self.add_threshold)
        )

    def active(
        self, spans: Sequence[tuple[int, int]], masked: Collection[int], begun: int
    ) -> list[Part]:
        """The blocks with masks of those that have been begun."""
        parts = []
        for index, span in enumerate(spans[:begun]):
            before = _decoded(spans[index - 1], masked) if index else 1.0
            if any(position in masked for position in range(*span)):
                parts.append(Part(span, waits=before < self.activate_threshold))
        return parts

    def check_model(self, spec: DenoiserSpec) -> None:
        if spec.attention != "block_causal":
            raise ConfigError(
                "`schedule.kind`='pipeline' needs block-causal attention and this model's is "
                f"{spec.attention!r}; use 'blocks'"
            )

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        return spec.attention == "block_causal" and spec.blocks_from == "response"


def _decoded(span: tuple[int, int], masked: Collection[int]) -> float:
    """Share of a block that is not masked."""
    start, end = span
    return 1 - sum(position in masked for position in range(start, end)) / (end - start)
