from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from lockstep.drawn import MASK as VOID
from lockstep.helped import HELPED, auxiliary, helped
from rows.made import MASK, VOCAB, Evaluated, matching

from dllmc.policies._hash import gumbel
from dllmc.policies._registry import kinds
from dllmc.policies.config import DecodingConfig
from dllmc.policies.verify.apd import Apd
from dllmc.reference.auxiliary import greedy_token, next_tokens
from dllmc.spec import ConfigError, DenoiserSpec

PROMPT = [5, 6, 7]
WINDOW = {"schedule": {"kind": "lookahead", "length": 8}, "commit": {"kind": "leftmost"}}


def config(mixture: float, **others: Any) -> DecodingConfig:
    verify = {"kind": "apd", "mixture": mixture}
    return DecodingConfig(
        **({"cache": {"kind": "none"}, "stop": {"kind": "length"}} | WINDOW | others),
        verify=verify,
    )


def asked(
    seed: int, temperature: float = 0.0, share: float = 0.8
) -> tuple[Evaluated, torch.Tensor]:
    """One evaluation of three decisions, and what the auxiliary model says."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randn(3, 6, VOCAB, generator=generator, dtype=torch.float64)
    logits = said + 0.7 * torch.randn(3, 6, VOCAB, generator=generator, dtype=torch.float64)
    eligible = torch.rand(3, 6, generator=generator) < share
    counters = torch.tensor([[7, n, seed] for n in range(3)])
    found = matching(logits, needs=["logits"], eligible=eligible, counters=counters)
    rows = found.rows.having(extra={**found.rows.extra, "auxiliary": said})
    if temperature:
        noised = logits + temperature * gumbel(counters, rows.positions, VOCAB).double()
        noised[..., MASK] = -torch.inf
        rows = rows.having(ids=noised.argmax(-1), temperature=torch.full((3,), temperature))
    each = [
        [
            row.having(candidate=candidate, temperature=temperature)
            for row, candidate in zip(mine, ids, strict=True)
        ]
        for mine, ids in zip(found.predictions, rows.ids.tolist(), strict=True)
    ]
    return Evaluated(rows, each), said


def first_of(eligible: torch.Tensor) -> torch.Tensor:
    return eligible & (eligible.cumsum(-1) == 1)


def accepted(policy: Apd, evaluated: Evaluated) -> list[set[int]]:
    values = {"mixture": torch.full((3,), policy.mixture, dtype=torch.float64)}
    rows = evaluated.rows
    chosen = policy.accept(rows, first_of(rows.eligible), values)
    return [evaluated.at(n, chosen) for n in range(3)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("coupling", ["shared", "greedy"])
def test_as_many_are_accepted_as_the_oracle_says(coupling: str, temperature: float) -> None:
    several = 0
    for seed in range(60):
        evaluated, said = asked(seed, temperature)
        policy = Apd(mixture=seed / 59, coupling=coupling)
        found = accepted(policy, evaluated)
        for n, places in enumerate(found):
            rows = [
                r for i, r in enumerate(evaluated.predictions[n]) if evaluated.rows.eligible[n, i]
            ]
            others = [said[n, row.position].numpy() for row in rows]
            first = {rows[0].position} if rows else set()
            assert places == policy.accept_oracle(rows, first, others)
            several += len(places) > 1
    assert several > 30


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_denoiser_alone_accepts_everything(temperature: float) -> None:
    evaluated, _ = asked(3, temperature, 1)
    everything = [evaluated.at(n, evaluated.rows.eligible) for n in range(3)]
    assert accepted(Apd(mixture=1), evaluated) == everything


def test_where_nothing_commits_nothing_is_accepted() -> None:
    evaluated, _ = asked(3)
    rows = evaluated.rows
    values = {"mixture": torch.ones(3)}
    assert not Apd(mixture=1).accept(rows, torch.zeros_like(rows.eligible), values).any()


def test_candidates_are_accepted_up_to_the_first_that_is_refused() -> None:
    logits = torch.zeros(1, 4, VOCAB, dtype=torch.float64)
    logits[..., 1] = 2
    said = torch.zeros_like(logits)
    said[0, 2, 0] = 4.5  # more than the denoiser's 2 at even weights
    found = matching(logits, needs=["logits"])
    rows = found.rows.having(extra={**found.rows.extra, "auxiliary": said})
    first = first_of(rows.eligible)
    for mixture, expected in ((0.5, [1, 1, 0, 0]), (0.7, [1, 1, 1, 1]), (0.0, [1, 0, 0, 0])):
        values = {"mixture": torch.tensor([mixture])}
        assert Apd().accept(rows, first, values).int().tolist() == [expected]


def test_with_a_mixture_of_one_every_window_commits_whole() -> None:
    for temperature in (0.0, 1.0):
        found = helped(HELPED[0]).generate(
            PROMPT, config=config(1.0, temperature=temperature), max_new_tokens=20
        )
        assert [len(step.positions) for step in found.trace] == [8, 8, 4]


def test_with_a_mixture_of_zero_the_auxiliary_model_says_what_follows_the_first() -> None:
    found = helped(HELPED[0]).generate(PROMPT, config=config(0.0), max_new_tokens=20)
    said = next_tokens(auxiliary().module, [*PROMPT, *found.tokens])
    own = [greedy_token(logits, VOID) for logits in said]
    for step in found.trace:
        for position, token in list(zip(step.positions, step.tokens, strict=True))[1:]:
            assert token == own[position - 1]


def test_more_weight_of_the_denoiser_commits_more() -> None:
    engine, rng = helped(HELPED[0]), random.Random(0)
    prompts = [[rng.randrange(VOID) for _ in range(5)] for _ in range(6)]
    evaluations = [
        sum(engine.generate(prompts, config=config(share), max_new_tokens=20).nfe)
        for share in (0.0, 0.8, 1.0)
    ]
    assert evaluations[0] > evaluations[1] > evaluations[2] == 18


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"commit": {"kind": "threshold"}}, "`commit.kind`='leftmost'"),
        ({"score": {"kind": "credit"}}, "it changes candidates"),
        ({"schedule": {"kind": "pipeline"}}, "from left to right"),
    ],
)
def test_what_it_does_not_go_with(other: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(0.5, **other)


@pytest.mark.parametrize("kind", sorted(set(kinds("commit")) - {"leftmost"}))
def test_what_commits_in_any_order_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"left to right; use `commit\.kind`='leftmost'"):
        DecodingConfig(commit={"kind": kind}, verify={"kind": "apd"})


def test_the_tuner_does_not_try_it() -> None:
    assert not Apd.suits(DenoiserSpec(mask_id=9, vocab_size=10, max_length=64))


@pytest.mark.parametrize("mixture", [-0.1, 1.1])
def test_a_bad_mixture_is_refused(mixture: float) -> None:
    with pytest.raises(ConfigError, match="`mixture`"):
        Apd(mixture=mixture)
