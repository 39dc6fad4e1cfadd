from __future__ import annotations

import itertools

import pytest
from golden.published import SYSTEMS, Case, cases, model, of_way, stored, ways

from dllmc import reference

WAYS = [(system, way) for system in SYSTEMS for way in ways(system)]


def check(case: Case) -> None:
    output = reference.generate(
        model(case.system, case.model, case.keys),
        case.prompt,
        case.decoding(),
        max_new_tokens=case.max_new_tokens,
    )
    assert output.tokens == case.tokens, case
    assert case.agrees_on(output.nfe), (output.nfe, case)
    if case.rows is not None:
        assert [len(step.evaluated) for step in output.trace] == case.rows, case


@pytest.mark.parametrize(("system", "way"), WAYS)
def test_the_reference_decodes_as_published(system: str, way: str) -> None:
    for case in of_way(system, way)[::8]:
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "way"), WAYS)
def test_the_reference_decodes_every_case_as_published(system: str, way: str) -> None:
    for case in of_way(system, way):
        check(case)


def test_there_are_many_decodes_of_each_system() -> None:
    assert all(len(cases(system)) >= 25 for system in SYSTEMS)


def test_the_editing_decodes_hold_edits() -> None:
    edits = [case["edits"] for case in stored("llada21")["cases"] if "edits" in case]
    assert sum(count > 0 for count in edits) > 100


@pytest.mark.parametrize(
    ("system", "setting"),
    [("dream", "cache"), ("fast_dllm_v2", "use_block_cache"), ("llada2", "steps")],
)
def test_pairs_of_decodes_tell_settings_apart(system: str, setting: str) -> None:
    told = stored(system)["cases"]
    differ = sum(
        one["tokens"] != other["tokens"]
        for one, other in itertools.pairwise(told)
        if one[setting] != other[setting]
        and {**one, setting: 0, "tokens": 0, "nfe": 0, "calls": 0}
        == {**other, setting: 0, "tokens": 0, "nfe": 0, "calls": 0}
    )
    assert differ > 10
