from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from golden.published import SYSTEMS, Case, cases, model, of_way, stored, ways

from dllmc import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.models import LoadedModel

WAYS = [(system, way) for system in SYSTEMS for way in ways(system)]


# Of a weight, relative: less than the 1.2e-7 that float32 tells apart.
ROUNDING = 1e-7


def decode(case: Case, loaded: LoadedModel) -> Any:
    return reference.generate(
        loaded, case.prompt, case.decoding(), max_new_tokens=case.max_new_tokens
    )


def is_tie(case: Case) -> bool:
    """Whether float64 decodes as published once weights differ by a rounding of float32.

    A published decode went one way on the processor that it was recorded on; where the two ways
    are closer than float32 tells apart, another processor may go the other.
    """
    loaded = model(case.system, case.model, case.keys)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        module = copy.deepcopy(loaded.module).double()
        with torch.no_grad():
            for weight in module.parameters():
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.mul_(1 + ROUNDING * noise)
        output = decode(case, dataclasses.replace(loaded, module=module))
        if output.tokens == case.tokens and case.agrees_on(output.nfe):
            return True
    return False


def check(case: Case) -> bool:
    """Whether it was decoded as published; what is a tie may differ."""
    output = decode(case, model(case.system, case.model, case.keys))
    if output.tokens != case.tokens and is_tie(case):
        print("a tie:", case)
        return False
    assert output.tokens == case.tokens, case
    assert case.agrees_on(output.nfe), (output.nfe, case)
    if case.rows is not None:
        assert [len(step.evaluated) for step in output.trace] == case.rows, case
    return True


def check_all(chosen: Sequence[Case]) -> None:
    """Of a hundred cases, which are a thousand decisions and more, one may be a tie."""
    assert sum(not check(case) for case in chosen) <= 1 + len(chosen) // 100


@pytest.mark.parametrize(("system", "way"), WAYS)
def test_the_reference_decodes_as_published(system: str, way: str) -> None:
    check_all(of_way(system, way)[::8])


@pytest.mark.slow
@pytest.mark.parametrize(("system", "way"), WAYS)
def test_the_reference_decodes_every_case_as_published(system: str, way: str) -> None:
    check_all(of_way(system, way))


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
