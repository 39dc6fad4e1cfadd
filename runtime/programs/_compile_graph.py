"""Compile a step graph with Inductor, without Dynamo.

The graph is already captured, so Dynamo has nothing to add, and looking its cache up costs
0.2 ms per call of the 0.5 ms that the smallest model's step takes. This is the one file that
uses Inductor's private interface (the same calls as `torch._inductor.standalone_compile`, which
would copy the weights).
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch._dynamo.source import ConstantSource
from torch._functorch import config as functorch_config
from torch._guards import TracingContext, tracing
from torch._inductor.compile_fx import compile_fx, compile_fx_aot, compile_fx_inner
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
    from torch._subclasses import FakeTensor

    Program = Callable[..., Any]


def fake_inputs(
    inputs: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]]
) -> dict[str, FakeTensor]:
    """Fake tensors like `inputs`, of one mode, with symbols for the sizes of dynamic axes.

    Duck shaping: dynamic axes of equal size in the examples are one quantity.
    """
    environment = ShapeEnv(duck_shape=True)
    mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    fakes = {}
    for name, tensor in inputs.items():
        axes = [
            DimDynamic.DUCK if axis in dynamic.get(name, ()) else DimDynamic.STATIC
            for axis in range(tensor.dim())
        ]
        context: StatelessSymbolicContext[Any, Any]
        context = StatelessSymbolicContext(dynamic_sizes=axes)
        source = ConstantSource(name)
        fakes[name] = mode.from_tensor(tensor, symbolic_context=context, source=source)
    return fakes


@dataclass(frozen=True)
class Condition:
    """A condition on sizes that a program relies on.

    Attributes:
        expression: In symbols, as SymPy holds it.
        examples: The size that each symbol had in the examples.
    """

    expression: Any
    examples: Mapping[Any, int]

    def holds(self, sizes: Mapping[int, int]) -> bool:
        """Whether it is met by `sizes`, given by the size in the examples of each quantity."""
        symbols = self.expression.free_symbols
        if any(self.examples.get(symbol) not in sizes for symbol in symbols):
            return False
        return bool(self.expression.subs({s: sizes[self.examples[s]] for s in symbols}))


def conditions_of(fakes: Mapping[str, FakeTensor]) -> list[Condition]:
    """Conditions on sizes that computing with `fakes` has relied on."""
    environment = next(iter(fakes.values())).fake_mode.shape_env
    assert environment is not None
    name = "backed_var_to_val" if hasattr(environment, "backed_var_to_val") else "var_to_val"
    examples = {symbol: int(value) for symbol, value in getattr(environment, name).items()}
    return [Condition(guard.expr, examples) for guard in environment.guards]


def compile_graph(
    graph: GraphModule, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]]
) -> tuple[Program, list[Condition]]:
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
    return _compile(graph, inputs, dynamic, compile_fx_inner)


def compile_piece(
    piece: GraphModule, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]]
) -> tuple[Program, list[Condition]]:
    """Compile a piece of a step, for the least time per call.

    Args:
        piece: Has no weights of its own, and returns a tuple.
        inputs: As in `compile_graph`.
        dynamic: As in `compile_graph`.

    Returns:
        The program and its conditions, as from `compile_graph`, but it takes a list of the
        inputs, and empties it.
    """
    made: list[Program] = []

    def compile_inner(module: GraphModule, given: Sequence[Any], **options: Any) -> Program:
        program = cast("Program", compile_fx_inner(module, given, **options))
        results = module.graph.output_node().args[0]
        if len(given) == len(inputs) and len(results) == _results(piece):  # type: ignore[arg-type]
            made.append(program)
        return program

    # AOTAutograd's own cache would come before `compile_inner`; Inductor's is the dear one.
    with functorch_config.patch(enable_autograd_cache=False):
        whole, conditions = _compile(piece, inputs, dynamic, compile_inner)
    if not made:
        return lambda given: whole(*given), conditions
    # AOTAutograd's wrapper, which has no work where inputs and results are those of the compiled
    # function, and Inductor's, which is for profilers, take 10 us per call and the rest 5.
    return getattr(made[0], "current_callable", None) or made[0], conditions


def compile_library(
    piece: GraphModule,
    inputs: Mapping[str, Tensor],
    dynamic: Mapping[str, Sequence[int]],
    options: Mapping[str, Any],
) -> tuple[list[str], list[Condition]]:
    """Compile a piece of a step into a shared library, ahead of time.

    Args:
        piece: Has no weights of its own, and returns a tuple.
        inputs: As in `compile_graph`.
        dynamic: As in `compile_graph`.
        options: Of Inductor.

    Returns:
        Files that AOTInductor wrote, in Inductor's cache, and the conditions as of
        `compile_graph`.
    """
    module, fakes = _prepared(piece, inputs, dynamic)
    mode = next(iter(fakes.values())).fake_mode
    patches = {"aot_inductor.package": True, **options}
    with warnings.catch_warnings(), torch.no_grad(), tracing(TracingContext(mode)):
        # Inductor copies objects of a class that torch itself calls deprecated.
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
        files = compile_fx_aot(module, list(fakes.values()), config_patches=patches)
    assert isinstance(files, list)
    return [file for file in files if isinstance(file, str)], conditions_of(fakes)


def _compile(
    graph: GraphModule,
    inputs: Mapping[str, Tensor],
    dynamic: Mapping[str, Sequence[int]],
    compile_inner: Callable[..., Any],
) -> tuple[Program, list[Condition]]:
    module, fakes = _prepared(graph, inputs, dynamic)
    mode = next(iter(fakes.values())).fake_mode
    with torch.no_grad(), tracing(TracingContext(mode)):
        given = [inputs[name] for name in fakes]
        program = cast("Program", compile_fx(module, given, inner_compile=compile_inner))
    return program, conditions_of(fakes)


def _prepared(
    graph: GraphModule, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]]
) -> tuple[GraphModule, dict[str, FakeTensor]]:
    """A copy of `graph` to be compiled, and its inputs as fake tensors, which it holds too."""
    module = GraphModule(graph, copy.deepcopy(graph.graph))
    names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
    fakes = fake_inputs({name: inputs[name] for name in names}, dynamic)
    for node in module.graph.nodes:
        node.meta.pop("val", None)
        if node.op == "placeholder":
            node.meta["val"] = fakes[str(node.target)]
    return module, fakes


def _results(piece: GraphModule) -> int:
    results = piece.graph.output_node().args[0]
    assert isinstance(results, tuple)
    return len(results)
