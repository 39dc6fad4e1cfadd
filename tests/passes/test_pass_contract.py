from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from graphs.passing import captured
from graphs.toys import llada
from pydantic import ValidationError

import dllmc.passes
from dllmc.passes import (
    GraphPass,
    PassConfig,
    PassContext,
    Stage,
    ordered,
    pass_types,
)
from dllmc.spec import PassError

if TYPE_CHECKING:
    from torch.fx import GraphModule

NAMES = sorted(pass_types())


class Claims(GraphPass):
    """Says that it matched twice."""

    name = "claims_two"
    stage = Stage.CANONICALISE

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del module, context
        return 2


def test_every_file_is_a_pass() -> None:
    (folder,) = dllmc.passes.__path__
    files = {path.stem for path in Path(folder).glob("*.py") if not path.stem.startswith("_")}
    assert set(NAMES) == files


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_shows_what_it_does_and_is_tested(name: str) -> None:
    doc = inspect.getdoc(pass_types()[name]) or ""
    assert "Before:" in doc
    assert "After:" in doc
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


def test_passes_run_by_stage_and_after_those_they_need() -> None:
    names = [kind.name for kind in ordered(*Stage)]
    stages = [kind.stage for kind in ordered(*Stage)]
    assert stages == sorted(stages)
    assert sorted(names) == NAMES
    for kind in ordered(*Stage):
        for earlier in kind.after:
            assert names.index(earlier) < names.index(kind.name)
    assert names.index("insert_cache") > names.index("merge_projections")


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (3, "`claims_two` matched 2 sites where the model has 3; .* add the spelling"),
        (1, "`claims_two` matched 2 sites where the model has 1; .* make it stricter"),
    ],
)
def test_another_count_than_the_model_has_is_an_error(expected: int, message: str) -> None:
    module, spec = llada()
    graph, _ = captured(module, spec)
    with pytest.raises(PassError, match=message):
        Claims().run(graph, PassContext(spec, 2, {"claims_two": expected}))


def test_a_result_says_what_was_done() -> None:
    module, spec = llada()
    graph, _ = captured(module, spec)
    nodes = len(graph.graph.nodes)
    result = Claims().run(graph, PassContext(spec, 2, {"claims_two": 2}))
    assert (result.name, result.matched, result.expected) == ("claims_two", 2, 2)
    assert (result.nodes_before, result.nodes_after) == (nodes, nodes)
    assert result.seconds > 0
    assert result.skipped_because is None
    assert Claims().run(graph, PassContext(spec, 2)).expected is None


def test_a_disabled_pass_does_nothing_and_says_so() -> None:
    module, spec = llada()
    graph, _ = captured(module, spec)
    result = Claims(PassConfig(enabled=False)).run(graph, PassContext(spec, 2, {"claims_two": 9}))
    assert (result.matched, result.skipped_because) == (0, "disabled")


def test_options_are_frozen_and_known() -> None:
    with pytest.raises(ValidationError):
        PassConfig(enabeld=True)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        PassConfig().enabled = False  # type: ignore[misc]
