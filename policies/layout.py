"""Where the blocks of a response stand on the canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dllmc.policies.axes import Schedule
    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the schedule; positions are those of the canvas, spans start and end.

    Attributes:
        span: Positions to decode.
        outer: The block of block-causal attention around it; the canvas with full attention.
        length: Positions of the block, those of the prompt included.
    """

    span: tuple[int, int]
    outer: tuple[int, int]
    length: int

    @property
    def whole(self) -> tuple[int, int]:
        """The span with what the prompt fills of it."""
        return self.span[1] - self.length, self.span[1]

    def ending(self, end: int) -> Block:
        """The same block up to `end`."""
        return Block((self.span[0], end), self.outer, end - self.whole[0])

    def before(self, limit: int) -> Block:
        """What of it lies before `limit`."""
        outer = self.outer[0], min(self.outer[1], limit)
        return Block(self.span, outer, self.length).ending(min(self.span[1], limit))


def lay_out(
    schedule: Schedule, spec: DenoiserSpec, prompt_length: int, response_length: int
) -> tuple[int, list[Block]]:
    """Length of the canvas, and its blocks; of a schedule that adapts, the first window alone.

    With full attention blocks are counted from the response's start. With block-causal attention
    every block of the attention is cut by the schedule on its own, the prompt's end may fill part
    of one, and the canvas reaches to the end of the last, as these models were trained; what goes
    beyond the response is decoded with it and dropped from the output.
    """
    end = prompt_length + response_length
    if spec.attention == "block_causal":
        end = outer_block(spec, end - 1, prompt_length)[1]
    if schedule.slides:
        last = prompt_length + schedule.blocks(response_length)[0][1]
        return end, [Block((prompt_length, last), (0, last), last - prompt_length)]
    if schedule.adapts:
        return end, [window_at(schedule, spec, prompt_length, prompt_length, end)]
    if spec.attention != "block_causal":
        return end, [
            Block((prompt_length + first, prompt_length + last), (0, end), last - first)
            for first, last in schedule.blocks(response_length)
        ]
    blocks: list[Block] = []
    start = prompt_length
    while start < end:
        outer = outer_block(spec, start, prompt_length)
        for first, last in schedule.blocks(outer[1] - outer[0]):
            span = max(outer[0] + first, prompt_length), outer[0] + last
            if span[0] < span[1]:
                blocks.append(Block(span, outer, last - first))
        start = outer[1]
    return end, blocks


def window_at(
    schedule: Schedule, spec: DenoiserSpec, start: int, prompt_length: int, end: int
) -> Block:
    """What a schedule that adapts offers first at `start`, on a canvas up to `end`."""
    outer = (0, end)
    if spec.attention == "block_causal":
        first, last = outer_block(spec, start, prompt_length)
        outer = first, min(last, end)
    window = schedule.window(start - prompt_length, end - prompt_length)
    last = min(start + window, outer[1])
    return Block((start, last), outer, last - start)


def outer_block(spec: DenoiserSpec, position: int, prompt_length: int) -> tuple[int, int]:
    """The block of block-causal attention that holds a position of the response."""
    assert spec.block_length is not None
    origin = prompt_length if spec.blocks_from == "response" else 0
    start = origin + (position - origin) // spec.block_length * spec.block_length
    return start, min(start + spec.block_length, spec.max_length)


def attention_limit(spec: DenoiserSpec, position: int, prompt_length: int, length: int) -> int:
    """The first canvas position that the row at `position` does not see."""
    if spec.attention != "block_causal":
        return length
    assert spec.block_length is not None
    origin = prompt_length if spec.blocks_from == "response" else 0
    if position < origin:
        return origin
    return min(origin + ((position - origin) // spec.block_length + 1) * spec.block_length, length)
