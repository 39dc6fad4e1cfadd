"""What masks and biases become, and that decoding through them is that of the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch.nn.functional as F
from graphs.masked import (
    PAD,
    AdditiveBlocks,
    Alibi,
    AllSeen,
    Blocks,
    ByRunningCount,
    CausalMask,
    HidesPadding,
    HidesPaddingByAdding,
    HidesPaddingFromPadding,
    LearnedBias,
    OfBatch,
    Window,
)
from graphs.passing import inputs, ready_for, run_and_verify
from graphs.toys import HEADS, LONGEST, SPEC, Toy
from torch import Tensor

import dllmc
from dllmc.kernels import canonical
from dllmc.models import LoadedModel
from dllmc.passes._graph import argument, calls, get_tensor
from dllmc.policies.config import DecodingConfig
from dllmc.spec import ConfigError, NotADenoiserError, NotPositionWiseError

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import Node

    from dllmc.spec import DenoiserSpec

BLOCKS = SPEC.model_copy(update={"attention": "block_causal", "block_length": 4})
FROM_RESPONSE = BLOCKS.model_copy(update={"blocks_from": "response"})
TOLD = ("key_limit", "query_positions", "key_positions", "bias", "mask")


def matched(module: nn.Module, spec: DenoiserSpec = SPEC) -> tuple[Any, list[Node]]:
    graph, context = ready_for("match_attention", module, spec)
    assert run_and_verify("match_attention", graph, context).matched == 2
    return graph, calls(graph, canonical("attention"))


def told(site: Node) -> set[str]:
    return {name for name in TOLD if argument(site, name) is not None}


def test_a_mask_that_hides_nothing_is_dropped() -> None:
    _, sites = matched(AllSeen())
    assert [told(site) for site in sites] == [set(), set()]


@pytest.mark.parametrize("module", [Blocks(), AdditiveBlocks()])
def test_a_block_causal_mask_becomes_a_limit_per_row(module: nn.Module) -> None:
    _, sites = matched(module, BLOCKS)
    assert [told(site) for site in sites] == [{"key_limit", "key_positions"}] * 2
    assert sites[0].args[4:] == sites[1].args[4:]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Alibi(), (HEADS, 2 * LONGEST - 1)),
        (Window(), (1, 2 * LONGEST - 1)),
        (LearnedBias(), (HEADS, LONGEST, LONGEST)),
    ],
    ids=["alibi", "window", "learned"],
)
def test_other_functions_of_position_become_a_table(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    graph, sites = matched(module)
    assert [told(site) for site in sites] == [{"query_positions", "key_positions", "bias"}] * 2
    assert get_tensor(graph, argument(sites[0], "bias")).shape == shape


@pytest.mark.parametrize(
    "module", [HidesPadding(), HidesPaddingByAdding(), HidesPaddingFromPadding()]
)
def test_a_mask_of_the_tokens_is_told_of_queries_and_held_keys(module: nn.Module) -> None:
    graph, sites = matched(module)
    assert [told(site) for site in sites] == [{"mask"}] * 2
    assert calls(graph, canonical("held"))


def test_the_decoder_says_what_rows_see_where_blocks_follow_the_prompt() -> None:
    _, sites = matched(AllSeen(), FROM_RESPONSE)
    assert told(sites[0]) == {"key_limit", "key_positions"}
    with pytest.raises(ConfigError, match=r"sees blocks of 4, and .* itself sees everything"):
        matched(Blocks(), FROM_RESPONSE)


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        (Blocks(), SPEC, "sees blocks of 4, and the spec says `attention`='full'"),
        (AllSeen(), BLOCKS, "sees every position, and the spec says `block_length`=4"),
        (Alibi(), BLOCKS, "has a bias, and the spec says `block_length`=4"),
        (Blocks(), BLOCKS.model_copy(update={"block_length": 8}), "blocks of 4.*`block_length`=8"),
    ],
)
def test_a_spec_that_says_otherwise_is_refused(
    module: nn.Module, spec: DenoiserSpec, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        matched(module, spec)


def test_a_causal_mask_is_no_denoiser() -> None:
    with pytest.raises(NotADenoiserError, match=r"has a causal mask; a denoiser's attention"):
        matched(CausalMask())


AUXILIARY = SPEC.model_copy(update={"attention": "causal", "role": "auxiliary"})


class CausalCall(Toy):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("module", [CausalMask(), CausalCall()])
def test_an_auxiliary_model_may_be_causal(module: nn.Module) -> None:
    _, sites = matched(module, AUXILIARY)
    assert [told(site) for site in sites] == [{"key_limit", "key_positions"}] * 2
    engine = dllmc.compile(module, spec=AUXILIARY, backend="eager", verify=True).engine()
    with pytest.raises(ConfigError, match=r"`role`='auxiliary'.*not decoded by itself"):
        engine.generate([1, 2, 3], max_new_tokens=4)


def test_an_auxiliary_model_must_be_causal() -> None:
    with pytest.raises(ConfigError, match=r"sees every position, and .* `attention`='causal'"):
        matched(AllSeen(), AUXILIARY)


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        (ByRunningCount(), SPEC, r"through `cumsum`.*no function of one query and one key"),
        (OfBatch(), SPEC, "differs between the sequences of a batch"),
        (HidesPadding(), BLOCKS, "hides the blocks of block_causal attention"),
    ],
)
def test_what_is_no_function_of_query_and_key_is_refused(
    module: nn.Module, spec: DenoiserSpec, message: str
) -> None:
    with pytest.raises(NotPositionWiseError, match=message):
        matched(module, spec)


def test_inputs_say_what_the_slots_hold() -> None:
    graph, context = ready_for("insert_cache", HidesPaddingFromPadding(), SPEC)
    run_and_verify("insert_cache", graph, context)
    assert {"key_tokens", "key_positions"} <= set(inputs(graph))
    assert not calls(graph, canonical("held"))


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        (HidesPaddingFromPadding(), SPEC),
        (LearnedBias(), SPEC),
        (AdditiveBlocks(), BLOCKS),
        *(
            pytest.param(module, SPEC, marks=pytest.mark.slow)
            for module in (HidesPadding(), Alibi(), Window())
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_decoding_is_that_of_the_module(module: nn.Module, spec: DenoiserSpec) -> None:
    engine = dllmc.compile(module, spec=spec, backend="eager", verify=True).engine()
    prompts = [[1, PAD, 5], [PAD, 4, PAD, 2, 6, PAD, 7], [2]]
    own = ("none", "prefix", "dual", "block_causal")
    for cache in own[: 3 + (spec is BLOCKS)]:
        config = DecodingConfig(
            schedule={"kind": "blocks", "block_length": 4},
            commit={"kind": "threshold", "threshold": 0.12},
            cache={"kind": cache},
            stop={"kind": "length"},
        )
        model = LoadedModel(module, spec, None, "toy", None, {})
        expected = dllmc.reference.generate(model, prompts, config, max_new_tokens=11)
        found = engine.generate(prompts, config=config, max_new_tokens=11)
        assert found.tokens == [output.tokens for output in expected]
        assert found.nfe == [output.nfe for output in expected]
