"""Compile steps ahead of time: machine code per piece, and the list of what each step calls.

Layers that are the same are one piece, and steps that differ in their statistics have all but
the last piece in common: the embedded model's 3 kinds of step are 5 pieces per batch kind.
"""

from __future__ import annotations

import hashlib
import operator
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dllmc.artifact.binaries import Binaries, Call, Listing, Program
from dllmc.artifact.graph import graph_from_json, graph_to_json, weights_of
from dllmc.artifact.outline import in_one_piece, outline
from dllmc.runtime.programs import _compile_graph
from dllmc.runtime.programs._compile_step import examples_of, identity_of, places_of
from dllmc.runtime.programs.aot import kind_of
from dllmc.runtime.programs.base import (
    described,
    dynamic_axes,
    example_inputs,
    example_of,
)
from dllmc.spec import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from dllmc.artifact.binaries import Target
    from dllmc.artifact.outline import Outline
    from dllmc.spec import StepPlan

# Of Inductor. Threads are counted when a program runs, not when it is compiled. Kernels of a GPU
# stand in the library, so that a piece is one file.
_OPTIONS: dict[str, Any] = {
    "cpp.dynamic_threads": True,
    "aot_inductor.embed_kernel_binary": True,
}
# Both are needed: with narrower vectors alone GCC still compiles for this very processor, and a
# lesser one ends the process at the first instruction that it lacks.
_BASELINE: dict[str, Any] = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}


class LibraryBuilder:
    """Makes programs for one target, each piece once.

    Args:
        target: What they are to run on.
        device: Where example inputs stand.
        known: Programs of the same target that are there already.
    """

    def __init__(
        self, target: Target, device: torch.device, known: Binaries | None = None
    ) -> None:
        self._target = target
        self._device = device
        self._names: dict[str, str] = {}
        self._files: dict[str, Path] = dict(known.files) if known else {}
        self._pieces: dict[str, str] = dict(known.listing.pieces) if known else {}
        programs = known.listing.programs if known else ()
        self._programs = {program.kind: program for program in programs}

    def add(self, plans: Iterable[StepPlan], graph_of: Callable[[StepPlan], GraphModule]) -> None:
        """Make what runs each of `plans`, whatever its sizes, unless it is there.

        Raises:
            PlanError: A program would hold for some sizes only.
        """
        for plan in plans:
            kind = kind_of(plan)
            if kind not in self._programs:
                self._programs[kind] = self._program(plan, graph_of(plan))

    def finish(self) -> Binaries:
        """All that was made."""
        programs = tuple(self._programs.values())
        listing = Listing(target=self._target, pieces=self._pieces, programs=programs)
        return Binaries(listing, self._files)

    def _program(self, plan: StepPlan, graph: GraphModule) -> Program:
        graph = _as_stored(graph)
        example, axes = example_of(plan), dynamic_axes(graph, plan)
        inputs = example_inputs(graph, example, self._device)
        names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
        used = {name: inputs[name] for name in names}
        fakes = _compile_graph.fake_inputs(used, axes)
        outlined = outline(graph, fakes)
        if not outlined.pieces:
            outlined = in_one_piece(graph, _compile_graph.fake_inputs(used, axes))
        conditions = _compile_graph.conditions_of(fakes)
        libraries: dict[str, str] = {}
        for call in outlined.module.graph.nodes:
            piece = str(call.target)
            if call.op == "call_module" and piece not in libraries:
                given = examples_of(outlined.pieces[piece], call, outlined.module, used)
                libraries[piece], found = self._library(outlined.pieces[piece], *given)
                conditions += found
        if conditions:
            raise PlanError(
                f"a program for plan `{plan.key}` would hold only where "
                f"{conditions[0].expression}; ahead-of-time programs hold for all sizes, so use "
                "`--backend inductor`"
            )
        calls, gives = _calls(outlined, libraries)
        return Program(
            statistics=plan.statistics,
            mask=plan.mask,
            inputs=plan.inputs,
            saliency=plan.saliency,
            single=plan.batch == 1,
            takes={name: described(used[name], axes[name], example) for name in names},
            calls=calls,
            gives=gives,
        )

    def _library(
        self,
        piece: GraphModule,
        examples: Mapping[str, Tensor],
        axes: Mapping[str, tuple[int, ...]],
    ) -> tuple[str, list[_compile_graph.Condition]]:
        """Name of the piece's library, which is compiled if it is the first of its kind."""
        options = _OPTIONS | (_BASELINE if self._target.isa == "x86-64-v3" else {})
        identity = f"{identity_of(piece, examples, axes)}\n{self._target}\n{options}"
        name = f"piece-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        if name in self._pieces:
            return name, []
        written, conditions = _compile_graph.compile_library(piece, examples, axes, options)
        (library,) = (Path(file) for file in written if file.endswith(".so"))
        self._pieces[name] = f"programs/{name}.so"
        self._files[self._pieces[name]] = _stripped(library)
        operators = library.with_suffix(".json")
        if operators.is_file():
            self._files[f"programs/{name}.json"] = operators
        return name, conditions


def _as_stored(graph: GraphModule) -> GraphModule:
    """`graph` as it comes out of an artifact.

    Machine code knows the strides of weights; and pieces of a loaded artifact must be known as
    those that it was compiled with.
    """
    weights = {
        name: weight.clone(memory_format=torch.contiguous_format)
        if weight.stride() != torch.empty(weight.shape, device="meta").stride()
        else weight
        for name, weight in weights_of(graph).items()
    }
    return graph_from_json(graph_to_json(graph), weights)


def _stripped(library: Path) -> Path:
    """`library` without its symbol table, where there is `strip`: 0.35 MB instead of 1.6."""
    if shutil.which("strip") is not None:
        subprocess.run(["strip", "--strip-unneeded", library], check=False, capture_output=True)
    return library


def _calls(
    outlined: Outline, libraries: Mapping[str, str]
) -> tuple[tuple[Call, ...], tuple[int, ...]]:
    nodes = list(outlined.module.graph.nodes)
    places = places_of(nodes)

    def source(node: Node) -> str:
        if node in places:
            return f"value:{places[node]}"
        return f"weight:{node.target}"

    gives: dict[Node, list[tuple[int, int]]] = {}
    for node in nodes:
        if node.target is operator.getitem:
            gives.setdefault(node.args[0], []).append((node.args[1], places[node]))
    calls = tuple(
        Call(
            piece=libraries[str(node.target)],
            takes=tuple(source(argument) for argument in node.args),
            gives=tuple(gives.get(node, ())),
        )
        for node in nodes
        if node.op == "call_module"
    )
    return calls, tuple(places[node] for node in nodes[-1].args[0])
