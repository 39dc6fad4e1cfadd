from __future__ import annotations

from dllmc.policies.layout import Block, lay_out
from dllmc.policies.schedule.whole import Whole
from dllmc.spec import DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)


def test_the_response_is_one_block() -> None:
    assert Whole().blocks(24) == [(0, 24)]
    assert lay_out(Whole(), SPEC, 3, 24) == (27, [Block((3, 27), (0, 27), 24)])


def test_with_block_causal_attention_it_is_each_block_of_that() -> None:
    spec = SPEC.model_copy(update={"attention": "block_causal", "block_length": 8})
    length, blocks = lay_out(Whole(), spec, 3, 16)
    assert length == 24
    assert [block.span for block in blocks] == [(3, 8), (8, 16), (16, 24)]


def test_it_has_nothing_to_tune() -> None:
    assert Whole.knobs() == {}
