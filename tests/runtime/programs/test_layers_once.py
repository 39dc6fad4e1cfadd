"""Models of several layers through Inductor; their pieces stay in Inductor's cache on disk."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import sympy
import torch
from graphs.toys import llada

from dllmc.artifact.outline import outline
from dllmc.compiler.compiled import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.runtime.programs import EagerPrograms, InductorPrograms, _compile_graph
from dllmc.runtime.programs._compile_step import places_of
from dllmc.runtime.programs.base import _EXAMPLE_ROWS, example_inputs
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.artifact import Package

CPU = torch.device("cpu")
GREEDY = StepPlan(batch=1, rows=6, head_rows=4, slots=12)
SAMPLED = GREEDY.model_copy(update={"statistics": "sampled"})
FILLING = GREEDY.model_copy(update={"statistics": "none", "head_rows": 0})


@functools.cache
def package(layers: int) -> Package:
    module, spec = llada(torch.float32, n_layers=layers)
    loaded = LoadedModel(module, spec, None, f"{layers} layers", None, {})
    return compile_model(loaded, engine_of=Engine).package


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Inductor is asked for: `piece` or `graph`, once per compilation."""
    asked: list[str] = []

    def count(kind: str) -> None:
        original = getattr(_compile_graph, f"compile_{kind}")

        def counted(*arguments: Any) -> Any:
            asked.append(kind)
            return original(*arguments)

        monkeypatch.setattr(_compile_graph, f"compile_{kind}", counted)

    count("piece")
    count("graph")
    return asked


def random_inputs(programs: InductorPrograms, plan: StepPlan) -> dict[str, Tensor]:
    given = example_inputs(programs.graph(plan), plan, CPU)
    given["tokens"].random_(90)
    given["key_limit"].fill_(plan.slots)
    given["temperature"].fill_(0.7)
    for name, value in given.items():
        if "keys_" in name or "values_" in name:
            value.normal_()
    return given


def agrees_with_eager(programs: InductorPrograms, plan: StepPlan) -> bool:
    """Whether results and caches are those of the graph run node by node, up to rounding."""
    given = random_inputs(programs, plan)
    copies = {name: value.clone() for name, value in given.items()}
    old = EagerPrograms(programs.package).run(plan, given)
    new = programs.run(plan, copies)
    assert len(old) == len(new)
    pairs = [*zip(old, new, strict=True), *((given[name], copies[name]) for name in given)]
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def test_compilations_do_not_depend_on_the_number_of_layers(compiled: list[str]) -> None:
    for layers in (3, 5):
        compiled.clear()
        programs = InductorPrograms(package(layers), CPU)
        assert agrees_with_eager(programs, GREEDY)
        # What comes first, the layer, and the last layer with the head.
        assert compiled == ["piece"] * 3
        assert programs.compiled == 1


@pytest.mark.slow
def test_another_statistics_set_compiles_only_the_last_piece(compiled: list[str]) -> None:
    programs = InductorPrograms(package(3), CPU)
    assert agrees_with_eager(programs, GREEDY)
    assert agrees_with_eager(programs, SAMPLED)
    assert len(compiled) == 4
    assert agrees_with_eager(programs, FILLING)
    assert len(compiled) == 5


def test_one_set_of_pieces_serves_all_sizes(compiled: list[str]) -> None:
    programs = InductorPrograms(package(3), CPU)
    for rows, slots in ((6, 12), (2, 3), (7, 11), (12, 12), (3, 40)):
        plan = GREEDY.model_copy(update={"rows": rows, "head_rows": 2, "slots": slots})
        assert agrees_with_eager(programs, plan)
    assert len(compiled) == 3


@pytest.mark.slow
def test_batches_have_pieces_of_their_own(compiled: list[str]) -> None:
    programs = InductorPrograms(package(3), CPU)
    for batch in (1, 2, 5):
        assert agrees_with_eager(programs, GREEDY.model_copy(update={"batch": batch}))
    assert len(compiled) == 6
    assert programs.compiled == 2


@pytest.mark.slow
def test_static_programs_are_made_of_pieces_too(compiled: list[str]) -> None:
    programs = InductorPrograms(package(3), CPU)
    programs.specialise([GREEDY, GREEDY.model_copy(update={"head_rows": 3})])
    # Plans that differ in their head rows differ in the last layer.
    assert len(compiled) == 4
    assert agrees_with_eager(programs, GREEDY)
    assert len(compiled) == 4


@pytest.mark.slow
def test_a_model_without_repeated_layers_is_one_graph(compiled: list[str]) -> None:
    programs = InductorPrograms(package(2), CPU)
    assert agrees_with_eager(programs, GREEDY)
    assert compiled == ["graph"]


@pytest.mark.slow
def test_layers_can_be_compiled_together(compiled: list[str]) -> None:
    programs = InductorPrograms(package(3), CPU, layers_once=False)
    assert agrees_with_eager(programs, GREEDY)
    assert compiled == ["graph"]


@pytest.mark.slow
def test_sizes_that_a_piece_does_not_hold_for_get_a_static_program(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, sizes, rows = _compile_graph.compile_piece, list[bool](), sympy.Symbol("rows")
    few_rows = _compile_graph.Condition(rows < 9, {rows: _EXAMPLE_ROWS})

    def conditional(piece: Any, inputs: Any, dynamic: Any) -> Any:
        sizes.append(any(dynamic.values()))
        conditions = [few_rows] if len(sizes) == 2 else []
        return original(piece, inputs, dynamic)[0], conditions

    monkeypatch.setattr(_compile_graph, "compile_piece", conditional)
    programs = InductorPrograms(package(3), CPU)
    assert agrees_with_eager(programs, GREEDY)
    assert sizes == [True] * 3
    for rows_beyond in (9, 11):
        assert agrees_with_eager(programs, GREEDY.model_copy(update={"rows": rows_beyond}))
    assert sizes == [True] * 3 + [False] * 6
    assert agrees_with_eager(programs, GREEDY.model_copy(update={"rows": 8}))
    assert len(compiled) == 9


def places(layers: int) -> int:
    graph = package(layers).graphs["greedy"]
    given = example_inputs(graph, GREEDY, CPU)
    nodes = list(outline(graph, _compile_graph.fake_inputs(given, {})).module.graph.nodes)
    taken = places_of(nodes)
    return len({taken[node] for node in nodes if node in taken and node.op != "placeholder"})


def test_results_are_forgotten_when_they_have_been_read() -> None:
    # Two tables, the residual stream, and the statistics in their place.
    assert places(3) == places(5) == 3
