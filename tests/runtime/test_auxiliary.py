"""Decoding with a second model: the engine decides what the reference decides."""

from __future__ import annotations

import random

import hypothesis
import pytest
from lockstep.compare import Request, Tally, finish, run
from lockstep.drawn import SHAPES, compiled_model, engine_of, model_of
from lockstep.helped import HELPED, auxiliary, compiled_auxiliary, helped, requests

from dllmc import reference
from dllmc.policies.config import DecodingConfig
from dllmc.spec import ConfigError, UsageError

pytestmark = pytest.mark.slow

EXPLORING = hypothesis.settings.get_current_profile_name() == "explore"
APD = DecodingConfig(
    schedule={"kind": "lookahead", "length": 6},
    commit={"kind": "leftmost"},
    cache={"kind": "trailing", "length": 2},
    verify={"kind": "apd", "mixture": 0.6},
    stop={"kind": "length"},
)
SPECDIFF = DecodingConfig(
    schedule={"kind": "blocks", "block_length": 6},
    verify={"kind": "specdiff"},
    stop={"kind": "length"},
)
BOTH = [APD, SPECDIFF]


@pytest.mark.parametrize("kind", ["apd", "specdiff"])
def test_every_decision_is_that_of_the_reference(kind: str) -> None:
    total = Tally()
    for seed in range(250 if EXPLORING else 10):
        rng = random.Random(seed + (random.randrange(10**9) if EXPLORING else 0))
        shape = HELPED[seed % len(HELPED)]
        model = model_of(shape)
        given = requests(rng, model.spec, kind)
        total.add(run(helped(shape), model.module, model.spec, given, auxiliary().module))
    total.check()
    assert total.decisions > 500


@pytest.mark.parametrize("config", BOTH)
def test_the_counts_of_both_models_evaluations_are_told(config: DecodingConfig) -> None:
    found = helped(HELPED[0]).generate([[5, 6, 7], [9]], config=config, max_new_tokens=18)
    judged = [sum(step.plan == "auxiliary" for step in trace) for trace in found.trace]
    assert found.auxiliary_nfe == (found.nfe if config is APD else judged)
    assert all(found.auxiliary_nfe)


def test_without_being_asked_it_is_not_evaluated() -> None:
    found = helped(HELPED[0]).generate([5, 6, 7], config=DecodingConfig(), max_new_tokens=8)
    plain = engine_of(HELPED[0]).generate([5, 6, 7], config=DecodingConfig(), max_new_tokens=8)
    assert (found.tokens, found.auxiliary_nfe) == (plain.tokens, 0)


@pytest.mark.parametrize("config", BOTH)
def test_unequal_requests_are_decoded_together(config: DecodingConfig) -> None:
    together = [
        Request([5, 6, 7], config, 18, 0),
        Request([9], config, 5, 1),
        Request([3, 3, 8, 2], DecodingConfig(), 11, 2),
    ]
    engine = helped(HELPED[0])
    tokens, nfe = finish(engine, together)
    alone = [finish(engine, [request]) for request in together]
    assert tokens == [each[0][0] for each in alone]
    assert nfe == [each[1][0] for each in alone]


@pytest.mark.parametrize("config", BOTH)
def test_without_an_auxiliary_model_both_engines_say_where_to_get_one(
    config: DecodingConfig,
) -> None:
    with pytest.raises(ConfigError, match=r"engine has none.*`--auxiliary auxiliary`"):
        engine_of(HELPED[0]).generate([5, 6, 7], config=config)
    with pytest.raises(ConfigError, match=r"asks an autoregressive model; give it as `auxiliary`"):
        reference.generate(model_of(HELPED[0]), [5, 6, 7], config)


@pytest.mark.parametrize("config", BOTH)
def test_a_denoiser_with_blocks_of_attention_is_refused(config: DecodingConfig) -> None:
    changed = {"schedule": {"kind": "blocks"}, "cache": {"kind": "block_causal"}}
    with pytest.raises(ConfigError, match=r"full attention.*`verify.kind`='none'"):
        helped(SHAPES[7]).generate([5, 6, 7], config=config.replace(**changed), max_new_tokens=12)


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"another vocabulary.*only a model of the same tokens"):
        compiled_model(HELPED[0]).engine(backend="eager", auxiliary=compiled_auxiliary(0, 25))


def test_a_denoiser_is_no_auxiliary_model() -> None:
    denoiser = compiled_model(HELPED[2])
    with pytest.raises(ConfigError, match=r"full attention.*load one with role 'auxiliary'"):
        compiled_model(HELPED[0]).engine(backend="eager", auxiliary=denoiser)


def test_a_model_that_is_not_compiled_is_refused() -> None:
    with pytest.raises(UsageError, match=r"is no compiled model; compile it first"):
        compiled_model(HELPED[0]).engine(backend="eager", auxiliary=auxiliary())


def test_other_weights_of_the_auxiliary_model_are_noticed() -> None:
    shape, tally = HELPED[0], Tally()
    model = model_of(shape)
    for config in BOTH:
        given = [Request([5, 6, 7], config, 18), Request([9], config, 18, 1)]
        other = auxiliary(1).module
        tally.add(run(helped(shape), model.module, model.spec, given, other))
    assert len(tally.unexcused) > 2


def test_the_reference_gives_each_of_several_prompts_the_same_helper() -> None:
    model = model_of(HELPED[0])
    found = reference.generate(model, [[5, 6], [7]], APD, max_new_tokens=9, auxiliary=auxiliary())
    engine = helped(HELPED[0]).generate([[5, 6], [7]], config=APD, max_new_tokens=9)
    assert [each.tokens for each in found] == engine.tokens
    assert [each.nfe for each in found] == engine.nfe
