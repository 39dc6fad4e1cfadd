from __future__ import annotations

import pytest

from dllmc.policies.schedule.blocks import Blocks
from dllmc.spec import ConfigError


def test_blocks_follow_one_another_and_the_last_may_be_short() -> None:
    assert Blocks(block_length=8).blocks(24) == [(0, 8), (8, 16), (16, 24)]
    assert Blocks(block_length=8).blocks(19) == [(0, 8), (8, 16), (16, 19)]
    assert Blocks(block_length=8).blocks(5) == [(0, 5)]


@pytest.mark.parametrize("block_length", [0, -4, 2.5])
def test_bad_length_is_refused(block_length: float) -> None:
    with pytest.raises(ConfigError, match=f"`block_length`={block_length}"):
        Blocks(block_length=block_length)


def test_block_length_is_tuned() -> None:
    knob = Blocks.knobs()["block_length"]
    assert (knob.choices, knob.lossy, knob.structural) == ((4, 8, 16, 32, 64), True, True)
