"""Graphs on their way through the passes."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import TYPE_CHECKING

from torch.fx import GraphModule

from dllmc.compiler.capture import capture
from dllmc.compiler.verify import Probe
from dllmc.passes import PassConfig, PassContext, PassResult, Stage, ordered, pass_types
from dllmc.passes.match_eager_attention import count_attention

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllmc.models import LoadedModel
    from dllmc.spec import DenoiserSpec

MAIN = ordered(Stage.CANONICALISE, Stage.POSITIONALISE, Stage.SPECIALISE, Stage.CACHE)
VARIANTS, LOWERING = ordered(Stage.VARIANT), ordered(Stage.LOWER)


@functools.cache
def _captured_once(module: nn.Module, spec: DenoiserSpec) -> GraphModule:
    return capture(module, spec)


def captured(module: nn.Module, spec: DenoiserSpec) -> tuple[GraphModule, PassContext]:
    original = _captured_once(module, spec)
    graph = GraphModule(original, copy.deepcopy(original.graph))
    declared = getattr(module, "expected_matches", dict)()
    return graph, PassContext(spec, count_attention(graph), declared)


def ready_for(name: str, module: nn.Module, spec: DenoiserSpec) -> tuple[GraphModule, PassContext]:
    """The graph after all passes that run before `name`.

    A variant is made of the graph that the main passes leave; what is lowered here is the variant
    that draws its candidates.
    """
    graph, context = captured(module, spec)
    variants = [kind for kind in VARIANTS if name in (kind.name, "lower_operators")]
    drawing = [kind for kind in variants if kind.variant == "sampled" or kind.name == name]
    for kind in (*MAIN, *drawing, *LOWERING):
        if kind.name == name:
            return graph, context
        kind().run(graph, context)
    raise KeyError(name)


def matches(model: LoadedModel, names: tuple[str, ...]) -> tuple[int, ...]:
    """How often passes match in a captured model; a shortfall against its word is an error."""
    graph, context = captured(model.module, model.spec)
    pass_types()["remove_noops"]().run(graph, context)
    return tuple(pass_types()[name]().run(graph, context).matched for name in names)


def run_and_verify(
    name: str, graph: GraphModule, context: PassContext, config: PassConfig | None = None
) -> PassResult:
    """Run a pass on a float64 graph, and see that it computes the same to 1e-9."""
    probe = Probe(context.spec)
    before = probe.observe(graph)
    result = pass_types()[name](config).run(graph, context)
    probe.compare(name, before, probe.observe(graph))
    return result


def logits(graph: GraphModule, *given: Tensor) -> Tensor:
    """What a graph returns that does not give statistics yet."""
    (result,) = graph(*given)
    return result


def operators(graph: GraphModule) -> Counter[str]:
    """Calls by operator, such as `aten.linear.default`."""
    return Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_function")


def inputs(graph: GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
