"""Round the weights of linear layers to 8 or 4 bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from dllmc.kernels import canonical
from dllmc.kernels.int4_linear import dequantise_int4, quantise_int4
from dllmc.kernels.int8_linear import quantise_int8
from dllmc.passes._base import GraphPass, PassConfig, PassContext, Stage
from dllmc.passes._graph import add_buffer, argument, aten, calls, get_tensor
from dllmc.spec import PassError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.fx import GraphModule, Node

# Scales of smaller groups would take as much memory as is saved.
_LEAST = 8


class QuantiseWeightsConfig(PassConfig):
    """How weights are rounded.

    Attributes:
        enabled: It changes what the model computes, so nobody has it who does not ask.
        bits: 8, with a scale per output; or 4, with a scale per group of inputs.
        group: Inputs of an output that have one scale, of 4 bits; where they do not divide into
            such groups, the largest part of it that they divide into.
    """

    enabled: bool = False
    bits: Literal[8, 4] = 8
    group: int = Field(default=32, ge=8, multiple_of=8)


class QuantiseWeights(GraphPass):
    """Lossy: the one pass after which the graph computes something else.

    Before: `linear(x, W, bias)`. After: `int8_linear(x, Q, scales, bias)`, or `int4_linear`,
    where Q times scales is W rounded.

    Embedding and head stay as they are: arg-max and tail mass depend on small differences of
    logits. Verified is that the rewritten graph computes what the graph before it does with
    rounded weights.

    Raises:
        PassError: The inputs of a layer do not divide into groups of 8 or more.
    """

    name = "quantise_weights"
    stage = Stage.SPECIALISE
    after = ("merge_projections",)
    optional = True
    lossy = True
    config_type = QuantiseWeightsConfig

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = self._sites(module)
        whole = {argument(node, "weight").target for node in sites}
        for node in sites:
            weight = get_tensor(module, argument(node, "weight"))
            codes, scales = self._rounded(weight, node)
            held = [
                add_buffer(module, f"{node.name}_{self._config.bits}bit", codes, node),
                add_buffer(module, f"{node.name}_scales", scales, node),
            ]
            given = (argument(node, "input"), *held, argument(node, "bias"))
            node.target = canonical(f"int{self._config.bits}_linear")
            node.args, node.kwargs = given, {}
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        _forget(module, whole)
        return len(sites)

    def lose(self, module: GraphModule) -> None:
        """Do to `module` what is lossy of the pass, and nothing else: round its weights."""
        for node in self._sites(module):
            weight = get_tensor(module, argument(node, "weight"))
            codes, scales = self._rounded(weight, node)
            if self._config.bits == 4:
                rounded = dequantise_int4(codes, scales)
            else:
                rounded = codes.to(weight.dtype) * scales[:, None]
            node.update_arg(1, add_buffer(module, f"{node.name}_rounded", rounded, node))
        module.recompile()

    @property
    def _config(self) -> QuantiseWeightsConfig:
        assert isinstance(self.config, QuantiseWeightsConfig)
        return self.config

    def _sites(self, module: GraphModule) -> list[Node]:
        layers = calls(module, aten.linear.default)
        return [node for node in layers if argument(node, "weight").op == "get_attr"]

    def _rounded(self, weight: Tensor, node: Node) -> tuple[Tensor, Tensor]:
        if weight.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise PassError(f"the weight of `{node.name}` is {weight.dtype} and not to be rounded")
        if self._config.bits == 8:
            return quantise_int8(weight)
        inputs = weight.shape[1]
        group = math.gcd(inputs, self._config.group)
        if group < _LEAST:
            raise PassError(
                f"`{node.name}` has {inputs} inputs, which do not divide into groups of {_LEAST} "
                "or more; round to 8 bits"
            )
        return quantise_int4(weight, group)


def _forget(module: GraphModule, names: Iterable[str]) -> None:
    """Let go of buffers of `module` that its graph no longer reads."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in names:
        if name not in read and name in module._buffers:
            delattr(module, name)
