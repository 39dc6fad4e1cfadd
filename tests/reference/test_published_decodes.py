from __future__ import annotations

import itertools

import pytest
from golden.fast_dllm import Case, load

from dllmc import reference

KINDS = tuple(itertools.product(("quota", "threshold", "factor"), ("none", "prefix", "dual")))


def of_kind(commit: str, cache: str) -> list[Case]:
    return [
        case
        for case in load()[1]
        if (case.config.commit.kind, case.config.cache.kind) == (commit, cache)
    ]


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("commit", "cache"), KINDS)
def test_tokens_and_nfe_are_those_of_fast_dllm(commit: str, cache: str, every: int) -> None:
    models, cases = load()[0], of_kind(commit, cache)
    assert len(cases) >= 40
    for case in cases[::every]:
        output = reference.generate(
            models[case.model], case.prompt, case.config, max_new_tokens=case.max_new_tokens
        )
        assert (output.tokens, output.nfe) == (case.tokens, case.nfe), case


def test_published_decodes_tell_the_caches_apart() -> None:
    decodes = {
        cache: [
            case.tokens
            for commit in ("quota", "threshold", "factor")
            for case in of_kind(commit, cache)
        ]
        for cache in ("none", "prefix", "dual")
    }
    for one, other in itertools.combinations(decodes.values(), 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) > 50
