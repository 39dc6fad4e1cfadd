"""Where a sequence stands, and what is to be evaluated next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class BlockProgress:
    """Where a row stands in its block.

    Attributes:
        step: Decisions over this block so far, 0 at its first evaluation.
        masks: Masked positions of the block when it began.
        blocks: Blocks of the whole response.
        remaining: Masked positions of the block now.
        length: Positions of the block, those of the prompt included where a block of
            block-causal attention holds its end.
        offset: Start of the block, counted from the response's.
        response: Positions of the whole response.
        evaluations: Steps of the whole response before this one.
    """

    step: int
    masks: int
    blocks: int
    remaining: int = 0
    length: int = 0
    offset: int = 0
    response: int = 0
    evaluations: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Positions that are decided over together.

    Attributes:
        span: Start and end on the canvas.
        waits: Whether an evaluation may commit none of them.
    """

    span: tuple[int, int]
    waits: bool = False


def part_progress(
    progress: BlockProgress, part: Part, masked: Collection[int], response_start: int
) -> BlockProgress:
    """Where a part stands that is not the whole of what is decoded."""
    start, end = part.span
    return replace(
        progress,
        masks=end - start,
        length=end - start,
        remaining=sum(position in masked for position in range(start, end)),
        offset=start - response_start,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a sequence stands, for the cache policy to decide what to evaluate next.

    Positions are those of the canvas, spans are start and end.

    Attributes:
        block: The positions that are decoded.
        whole: The same block with the part of it that the prompt fills.
        outer: The block of block-causal attention around it; the canvas with full attention.
        reach: What lies before this position is all that the block can see.
        step: Evaluations of the block so far.
        outer_steps: Evaluations of the outer block so far.
        committed: Tokens committed since the last refresh, its own commits included.
        first_masked: Whether the first position of the whole block is still masked.
        exact: Before this position, keys and values are those of the final tokens; only kept
            for block-causal attention.
        since_refresh: Evaluations since the last refresh.
        prompt: Positions of the prompt.
        masked: Masked positions of the canvas.
        was_masked: Those that were masked before the last evaluation; all at first.
        evaluations: Steps of the whole response before this one.
        coming: Positions that commit next, in their order, where that is known before they are
            evaluated; else none.
    """

    block: tuple[int, int]
    whole: tuple[int, int]
    outer: tuple[int, int]
    reach: int
    step: int
    outer_steps: int
    committed: int
    first_masked: bool
    exact: int
    since_refresh: int = 0
    prompt: int = 0
    masked: frozenset[int] = frozenset()
    was_masked: frozenset[int] = frozenset()
    evaluations: int = 0
    coming: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate, and what may commit from it.

    Attributes:
        rows: Positions evaluated, ascending.
        head: Positions that may commit, ascending; maybe none. A single one commits whatever the
            commit policy says.
        refresh: Whether it renews what the cache remembers of the rows outside the block.
        first_only: Whether only the first of `head` may commit, which then does; the others are
            there for the schedule to see.
        keeps: Share of the keys outside the block to keep from this evaluation on, by saliency;
            None keeps what there is.
        kept: Whether it reads the kept keys instead of all.
        joint: Whether a joint sampler is asked, on what it remembers, and not the denoiser.
    """

    rows: Sequence[int]
    head: Sequence[int]
    refresh: bool
    first_only: bool = False
    keeps: tuple[float, int] | None = None
    kept: bool = False
    joint: bool = False
