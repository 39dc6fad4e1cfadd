"""A denoiser as its canonical graph."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import nn

from dllmc.compiler._state import evaluating
from dllmc.compiler.capture import capture
from dllmc.passes import PassContext, Stage, ordered
from dllmc.passes.match_eager_attention import count_attention

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

    from dllmc.models import LoadedModel


class _Logits(nn.Module):
    """Tokens `[B, T]` -> logits `[B, T, V]` by a captured graph, which returns a tuple."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor | tuple[Tensor] = self.graph_module(tokens)
        return result[0] if isinstance(result, tuple | list) else result


def canonicalise(model: LoadedModel) -> LoadedModel:
    """The same denoiser with one spelling of attention, which the reference decoder can follow.

    The reference reproduces a cache where attention is called. Of a module that writes attention
    as products and a softmax, it follows this graph instead.

    Args:
        model: From `load_model` or `adapt`. The graph reads its weights, not copies.

    Raises:
        CaptureError: The module cannot be captured.
        NotADenoiserError: Its attention is causal.
        NotPositionWiseError: Its attention has another form than `dllmc.attention` has.
    """
    with evaluating(model.module):
        graph = capture(model.module, model.spec)
        declared: dict[str, int] = getattr(model.module, "expected_matches", dict)()
        context = PassContext(model.spec, count_attention(graph), declared)
        for kind in ordered(Stage.CANONICALISE):
            kind().run(graph, context)
    return dataclasses.replace(model, module=_Logits(graph))
