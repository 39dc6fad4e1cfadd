from __future__ import annotations

import pytest
from golden.assisted import Assisted, cases
from golden.published import stored

from dllmc import reference


def check(asked: Assisted) -> None:
    case, (model, auxiliary) = asked.case, asked.models
    output = reference.generate(
        model,
        case.prompt,
        case.decoding(),
        max_new_tokens=case.max_new_tokens,
        auxiliary=auxiliary,
    )
    assert output.tokens == case.tokens, case
    assert output.nfe == case.nfe, case
    assert [len(step.evaluated) for step in output.trace] == case.rows, case
    assert [len(step.committed) for step in output.trace] == asked.accepted, case


def test_the_reference_decodes_as_published() -> None:
    for asked in cases()[::9]:
        check(asked)


@pytest.mark.slow
def test_the_reference_decodes_every_case_as_published() -> None:
    for asked in cases():
        check(asked)


def test_the_decodes_are_many_and_of_many_settings() -> None:
    told = stored("apd")["cases"]
    assert len(told) == 51
    assert {case["kv_window"] for case in told} == {None, 0, 1, 2, 4, 16}
    assert {case["max_lookahead"] for case in told} == {None, 4, 8, 12}
    assert {case.get("apd_mixture_weight") for case in told} == {None, 0, 0.5, 0.7, 0.9, 1}
    assert sum(asked.auxiliary is None for asked in cases()) == 4
    assert sum("eos_token_id" in case for case in told) == 3
