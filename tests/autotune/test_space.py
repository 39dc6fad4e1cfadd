from __future__ import annotations

from typing import Any

import optuna
import pytest

from dllmc.autotune.space import PRESETS, SearchSpace, search_space
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.spec import DenoiserSpec, TuningError

SPEC = DenoiserSpec(mask_id=0, vocab_size=9, max_length=96)


def space(length: int = 32, narrowing: dict[str, Any] | None = None) -> SearchSpace:
    return search_space(SPEC, length, narrowing)


def drawn(searched: SearchSpace, count: int = 60) -> list[DecodingConfig]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [searched.suggest(study.ask()) for _ in range(count)]


def test_every_kind_of_the_policies_is_searched_with_its_own_knobs() -> None:
    searched = space()
    assert searched.kinds["commit"] == ("factor", "quota", "threshold")
    assert searched.kinds["cache"] == ("dual", "none", "prefix")
    knobs = {".".join([*key, name]) for key, found in searched.domains.items() for name in found}
    assert knobs == {
        "schedule.blocks.block_length",
        "commit.factor.factor",
        "commit.quota.steps",
        "commit.threshold.threshold",
        "cache.dual.refresh_every",
        "cache.prefix.refresh_every",
    }
    assert "stop" not in searched.kinds


def test_whatever_is_drawn_can_be_decoded() -> None:
    for length in (5, 12, 32, 100):
        for config in drawn(space(length)):
            config.check(length)


def test_knobs_of_kinds_that_were_not_chosen_are_not_drawn() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        config = space().suggest(trial)
        owners = {".".join(name.split(".")[:2]) for name in trial.params if "kind" not in name}
        assert owners <= {
            "schedule.blocks",
            f"commit.{config.commit.kind}",
            f"cache.{config.cache.kind}",
        }


@pytest.mark.parametrize(
    ("length", "choices"), [(32, (4, 8, 16, 32)), (12, (4, 8, 16)), (4, (4,)), (3, (4,))]
)
def test_block_lengths_that_cut_the_response_alike_are_one_choice(
    length: int, choices: tuple[int, ...]
) -> None:
    assert space(length).domains["schedule", "blocks"]["block_length"].choices == choices


def test_a_refresh_that_never_comes_is_left_out() -> None:
    for config in drawn(space(32, {"cache": ["dual", "prefix"]}), 100):
        every = config.cache.refresh_every
        assert every is None or every < config.schedule.block_length


def test_a_quota_divides_over_the_blocks_and_one_token_per_step_has_one_spelling() -> None:
    configs = drawn(space(32, {"commit": "quota"}), 100)
    steps = {config.commit.steps for config in configs}
    assert None in steps
    assert 32 not in steps
    assert all(s is None or s <= 32 for s in steps)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_points_of_the_space(name: str) -> None:
    study = optuna.create_study()
    parameters = space().parameters(PRESETS[name])
    assert parameters is not None
    study.enqueue_trial(parameters)
    assert space().suggest(study.ask()) == PRESETS[name]


def test_a_preset_outside_the_space_has_no_parameters() -> None:
    assert space(32, {"commit": "threshold"}).parameters(QUALITY_REFERENCE) is None
    assert space(32, {"commit.threshold": [0.2, 0.8]}).parameters(SPEED_BASELINE) is None
    assert space(32, {"cache.refresh_every": [4, 8]}).parameters(SPEED_BASELINE) is None


def test_on_a_short_response_a_preset_maps_to_what_decodes_the_same() -> None:
    parameters = space(12).parameters(SPEED_BASELINE)
    assert parameters is not None
    assert parameters["schedule.blocks.block_length"] == 16


def test_the_space_can_be_narrowed() -> None:
    narrowed = {
        "commit": ["threshold"],
        "cache": "dual",
        "commit.threshold": [0.5, 0.75],
        "cache.dual.refresh_every": [None, 4],
        "schedule.block_length": 8,
    }
    for config in drawn(space(32, narrowed)):
        assert 0.5 <= config.commit.threshold <= 0.75
        assert config.cache.kind == "dual"
        assert config.cache.refresh_every in (None, 4)
        assert config.schedule.block_length == 8


def test_a_knob_of_all_kinds_of_an_axis_can_be_named_at_once() -> None:
    searched = space(32, {"cache.refresh_every": [2]})
    assert searched.domains["cache", "dual"]["refresh_every"].choices == (2,)
    assert searched.domains["cache", "prefix"]["refresh_every"].choices == (2,)


@pytest.mark.parametrize(
    ("narrowing", "message"),
    [
        ({"comit": "quota"}, r"`space` has no knob `comit`; did you mean `commit`\?"),
        ({"commit": "thresold"}, r"there is no `thresold`; did you mean `threshold`\?"),
        ({"commit": []}, "`space.commit` leaves no kind"),
        ({"cache.refresh": 3}, r"has no knob `cache.refresh`; did you mean `cache.refresh_every`"),
        ({"commit.threshold": [0.5, 1.5]}, r"`threshold`=1.5: input should be less than or equal"),
        ({"commit.threshold": [0.9, 0.5]}, "is no range; give its two ends, low first"),
        ({"commit.threshold": ["a", "b"]}, "is no range"),
        ({"schedule.block_length": []}, "leaves no value"),
        ({"schedule.block_length": [0, 4]}, "`block_length`=0"),
    ],
)
def test_a_wrong_narrowing_is_refused_by_name(narrowing: dict[str, Any], message: str) -> None:
    with pytest.raises(TuningError, match=message):
        space(32, narrowing)
