"""Compile a step graph with Inductor, without Dynamo.

The graph is already captured, so Dynamo has nothing to add, and looking its cache up costs
0.2 ms per call of the 0.5 ms that the smallest model's step takes. This is the one file that
uses Inductor's private interface (the same calls as `torch._inductor.standalone_compile`, which
would copy the weights).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch._dynamo.source import ConstantSource
from torch._guards import TracingContext, tracing
from torch._inductor.compile_fx import compile_fx
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor


def compile_graph(
    graph: GraphModule, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]]
) -> tuple[Callable[..., Any], list[str]]:
    """Compile `graph` for inputs like `inputs`.

    Args:
        graph: A step; its weights are used in place.
        inputs: Examples by name. The sizes of dynamic axes must differ from one another where
            they are different quantities, and agree where they are the same.
        dynamic: Axes by input whose size may differ from the example's.

    Returns:
        The program, taking the graph's inputs in order, and the conditions on sizes under which
        it holds; none if it holds for all.
    """
    module = GraphModule(graph, copy.deepcopy(graph.graph))
    # Duck shaping: dynamic axes of equal size in the examples are one quantity.
    environment = ShapeEnv(duck_shape=True)
    mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    examples = []
    for node in module.graph.nodes:
        node.meta.pop("val", None)
        if node.op != "placeholder":
            continue
        name = str(node.target)
        tensor = inputs[name]
        axes = [
            DimDynamic.DUCK if axis in dynamic.get(name, ()) else DimDynamic.STATIC
            for axis in range(tensor.dim())
        ]
        context: StatelessSymbolicContext[Any, Any]
        context = StatelessSymbolicContext(dynamic_sizes=axes)
        source = ConstantSource(name)
        node.meta["val"] = mode.from_tensor(tensor, symbolic_context=context, source=source)
        examples.append(tensor)
    with torch.no_grad(), tracing(TracingContext(mode)):
        program = cast("Callable[..., Any]", compile_fx(module, examples))
    return program, [str(guard.expr) for guard in environment.guards]
