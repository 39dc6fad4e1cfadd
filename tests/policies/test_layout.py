from __future__ import annotations

from dllmc.policies.axes import Schedule
from dllmc.policies.layout import Block, attention_limit, lay_out, window_at
from dllmc.policies.schedule.blocks import Blocks
from dllmc.spec import DenoiserSpec

FULL = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
CANVAS = FULL.model_copy(update={"attention": "block_causal", "block_length": 8})
RESPONSE = CANVAS.model_copy(update={"blocks_from": "response"})


class Adapting(Schedule):
    adapts = True
    kind: str = "adapting"

    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        raise NotImplementedError

    def window(self, offset: int, response_length: int) -> int:
        return min(response_length // 2, response_length - offset)


def test_with_full_attention_blocks_follow_the_prompt() -> None:
    length, blocks = lay_out(Blocks(block_length=4), FULL, 5, 6)
    assert length == 11
    assert blocks == [Block((5, 9), (0, 11), 4), Block((9, 11), (0, 11), 2)]


def test_block_causal_blocks_stand_where_the_attention_has_them() -> None:
    length, blocks = lay_out(Blocks(block_length=8), CANVAS, 5, 6)
    assert length == 16
    assert blocks == [Block((5, 8), (0, 8), 8), Block((8, 16), (8, 16), 8)]


def test_sub_blocks_cut_every_attention_block_on_its_own() -> None:
    length, blocks = lay_out(Blocks(block_length=3), CANVAS, 10, 6)
    assert length == 16
    assert blocks == [Block((10, 11), (8, 16), 3), Block((11, 14), (8, 16), 3),
                      Block((14, 16), (8, 16), 2)]  # fmt: skip


def test_a_longer_schedule_ends_with_the_attention_block() -> None:
    _, blocks = lay_out(Blocks(block_length=32), CANVAS, 8, 16)
    assert [block.span for block in blocks] == [(8, 16), (16, 24)]


def test_the_prompt_may_be_one_block() -> None:
    length, blocks = lay_out(Blocks(block_length=8), RESPONSE, 5, 9)
    assert length == 21
    assert [block.span for block in blocks] == [(5, 13), (13, 21)]
    limits = [attention_limit(RESPONSE, p, 5, length) for p in (0, 4, 5, 12, 13, 20)]
    assert limits == [5, 5, 13, 13, 21, 21]


def test_the_canvas_ends_where_the_model_does() -> None:
    length, blocks = lay_out(Blocks(block_length=8), CANVAS.model_copy(
        update={"max_length": 13}), 5, 6)  # fmt: skip
    assert length == 13
    assert blocks[-1].span == (8, 13)


def test_what_rows_see() -> None:
    assert [attention_limit(CANVAS, p, 5, 16) for p in (0, 7, 8, 15)] == [8, 8, 16, 16]
    assert attention_limit(FULL, 0, 5, 16) == 16


def test_a_schedule_that_adapts_begins_with_a_window() -> None:
    length, blocks = lay_out(Adapting(), FULL, 5, 20)
    assert (length, blocks) == (25, [Block((5, 15), (0, 25), 10)])
    assert window_at(Adapting(), FULL, 21, 5, 25) == Block((21, 25), (0, 25), 4)
    # Within one block of block-causal attention.
    assert window_at(Adapting(), CANVAS, 13, 5, 24) == Block((13, 16), (8, 16), 3)


def test_a_block_may_end_before_its_window() -> None:
    block = Block((11, 16), (8, 16), 8)
    assert block.whole == (8, 16)
    assert block.ending(14) == Block((11, 14), (8, 16), 6)
    assert block.ending(14).whole == (8, 14)


def test_what_lies_before_where_a_response_is_cut() -> None:
    assert Block((5, 15), (0, 25), 10).before(12) == Block((5, 12), (0, 12), 7)
    assert Block((5, 15), (0, 25), 10).before(20) == Block((5, 15), (0, 20), 10)
    assert Block((11, 16), (8, 16), 8).before(14) == Block((11, 14), (8, 14), 6)
