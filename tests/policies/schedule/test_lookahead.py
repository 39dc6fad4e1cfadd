from __future__ import annotations

import pytest

from dllmc.policies.config import DecodingConfig
from dllmc.policies.layout import Block, lay_out
from dllmc.policies.schedule.lookahead import Lookahead
from dllmc.runtime.advance import Advance
from dllmc.runtime.need import need_of
from dllmc.runtime.state import DecodeState
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)


def test_the_window_begins_with_the_response_and_nothing_lies_beyond() -> None:
    assert lay_out(Lookahead(length=4), SPEC, 3, 10) == (13, [Block((3, 7), (0, 7), 4)])
    assert lay_out(Lookahead(length=40), SPEC, 3, 10) == (13, [Block((3, 13), (0, 13), 10)])


def test_it_moves_to_the_first_masked_position() -> None:
    config = DecodingConfig(
        schedule={"kind": "lookahead", "length": 4},
        commit={"kind": "leftmost"},
        cache={"kind": "none"},
        stop={"kind": "length"},
    )
    state = DecodeState(SPEC, [1, 2, 3], config, 10, 0)
    spans = []
    for committed in ({3: 5}, {5: 5}, {4: 5, 6: 5}, dict.fromkeys(range(7, 11), 5), {12: 5}):
        spans.append(state.current.span)
        state.advance(Advance("plan", need_of(state, "float32"), committed))
    assert spans == [(3, 7), (4, 8), (4, 8), (7, 11), (11, 13)]
    assert state.current == Block((11, 13), (0, 13), 2)
    state.advance(Advance("plan", need_of(state, "float32"), {11: 5}))
    assert state.done


def test_a_model_with_blocks_of_attention_is_refused() -> None:
    spec = SPEC.model_copy(update={"attention": "block_causal", "block_length": 8})
    with pytest.raises(ConfigError, match=r"'lookahead' is for full attention.*use 'blocks'"):
        Lookahead().check_model(spec)


@pytest.mark.parametrize(
    "other",
    [
        {"commit": {"kind": "timesteps"}},
        {"belief": {"kind": "lrd"}},
        {"revise": {"kind": "edit"}},
        {"verify": {"kind": "self_speculation"}},
        {"cache": {"kind": "dkv"}},
        {"cache": {"kind": "dual", "window_first": "carried"}},
    ],
)
def test_what_counts_the_evaluations_of_a_block_does_not_go_with_it(
    other: dict[str, object],
) -> None:
    with pytest.raises(ConfigError, match="window"):
        DecodingConfig(schedule={"kind": "lookahead"}, **other)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="`length`=0"):
        Lookahead(length=0)
