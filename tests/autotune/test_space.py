from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from dllmc.autotune._settling import DECISIVE
from dllmc.autotune.space import PRESETS, SearchSpace, search_space
from dllmc.policies._composition import conflict
from dllmc.policies._registry import kinds as kinds_of
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.spec import ConfigError, DenoiserSpec, TuningError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dllmc.policies._base import Policy

SPEC = DenoiserSpec(mask_id=0, vocab_size=9, max_length=96)
SHIFTED = DenoiserSpec(mask_id=0, vocab_size=9, max_length=96, logit_shift=1)
BLOCK_CAUSAL = DenoiserSpec(
    mask_id=0,
    vocab_size=9,
    max_length=96,
    family="llada2",
    attention="block_causal",
    block_length=4,
    blocks_from="response",
)
AXES = ("schedule", "belief", "score", "commit", "cache", "verify", "revise")


def space(
    length: int = 32, narrowing: dict[str, Any] | None = None, **options: Any
) -> SearchSpace:
    return search_space(SPEC, length, narrowing, **options)


def trials(searched: SearchSpace, count: int) -> Iterator[tuple[optuna.Trial, DecodingConfig]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        yield trial, searched.suggest(trial)


def drawn(searched: SearchSpace, count: int = 60) -> list[DecodingConfig]:
    return [config for _, config in trials(searched, count)]


def suiting(spec: DenoiserSpec) -> dict[str, type[Policy]]:
    """What the registry has for `spec` that its name alone configures, as `axis.kind`."""
    found = {}
    for axis in AXES:
        for kind, policy in kinds_of(axis).items():
            with contextlib.suppress(ConfigError):
                policy(kind=kind).check_model(spec)
                found |= {f"{axis}.{kind}": policy} if policy.suits(spec) else {}
    return found


@pytest.mark.parametrize("spec", [SPEC, SHIFTED, BLOCK_CAUSAL])
def test_every_kind_of_the_policies_is_searched_with_its_own_knobs(spec: DenoiserSpec) -> None:
    searched, suits = search_space(spec, 32), suiting(spec)
    assert {f"{axis}.{kind}" for axis, kinds in searched.kinds.items() for kind in kinds} == {
        *suits
    }
    knobs = {".".join([*key, name]) for key, found in searched.domains.items() for name in found}
    assert knobs == {
        f"{owner}.{name}"
        for owner, policy in suits.items()
        for name, knob in policy.knobs().items()
        if knob.lossy
    }
    assert tuple(searched.kinds) == AXES


def test_the_published_kinds_and_knobs_are_among_them() -> None:
    searched = space()
    assert {"factor", "quota", "threshold"} <= {*searched.kinds["commit"]}
    assert {"dual", "none", "prefix"} <= {*searched.kinds["cache"]}
    assert {*searched.domains["schedule", "blocks"]} == {"block_length"}
    assert {*searched.domains["commit", "factor"]} == {"factor"}
    assert {*searched.domains["commit", "quota"]} == {"steps"}
    assert {*searched.domains["commit", "threshold"]} == {"threshold"}
    assert {*searched.domains["cache", "dual"]} == {"refresh_every"}
    assert {*searched.domains["cache", "prefix"]} == {"refresh_every"}


def test_what_needs_a_file_or_another_model_is_not_searched() -> None:
    searched = space()
    assert "learned_filter" in kinds_of("score")
    assert "learned_filter" not in searched.kinds["score"]
    assert not {"joint_sampler", "apd", "specdiff"} & {*searched.kinds["verify"]}


@pytest.mark.parametrize("spec", [SPEC, SHIFTED, BLOCK_CAUSAL])
@pytest.mark.parametrize("same_programs", [False, True])
@pytest.mark.parametrize("length", [5, 12, 32, 100])
def test_whatever_is_drawn_can_be_decoded_and_drawn_again(
    spec: DenoiserSpec, length: int, same_programs: bool
) -> None:
    searched = search_space(spec, length, same_programs=same_programs)
    for config in drawn(searched, 25):
        config.check(length)
        config.check_model(spec)
        parameters = searched.parameters(config)
        assert parameters is not None
        assert searched.suggest(optuna.trial.FixedTrial(parameters)) == config


def test_every_kind_is_left_in_some_of_what_is_drawn() -> None:
    searched = space()
    left = {(axis, getattr(config, axis).kind) for config in drawn(searched, 120) for axis in AXES}
    assert left == {*searched.domains}


def test_of_two_kinds_that_do_not_go_together_the_less_decisive_gives_way() -> None:
    gave_way = 0
    for trial, config in trials(space(), 100):
        chosen = {axis: trial.params[f"{axis}.kind"] for axis in AXES}
        for rank, axis in enumerate(DECISIVE):
            if getattr(config, axis).kind == chosen[axis]:
                continue
            gave_way += 1
            assert getattr(config, axis).kind == getattr(SPEED_BASELINE, axis).kind
            prefix = f"{axis}.{chosen[axis]}."
            values = {
                name.removeprefix(prefix): value
                for name, value in trial.params.items()
                if name.startswith(prefix)
            }
            refused = kinds_of(axis)[chosen[axis]](**values)
            before = [getattr(config, other) for other in DECISIVE[:rank]]
            assert any(conflict(refused, other) is not None for other in before)
    assert gave_way > 30


def test_commit_and_cache_are_kept_as_they_were_drawn() -> None:
    for trial, config in trials(space(), 100):
        assert config.commit.kind == trial.params["commit.kind"]
        if config.verify.kind == "self_speculation":
            assert config.cache.kind == trial.params["cache.kind"]


@pytest.mark.parametrize(
    ("narrowing", "expected"),
    [
        # What cannot give way stays, and what is more decisive does.
        ({"score": "entropy"}, {"quota", "entropy", "entropy_bound"}),
        ({"score": "margin", "commit": ["quota", "threshold"]}, {"quota"}),
        # A kind that may not give way has values that go together, where there are any.
        ({"schedule": "lookahead", "commit": "quota"}, {"quota"}),
    ],
)
def test_in_a_narrowed_space_another_axis_gives_way(
    narrowing: dict[str, Any], expected: set[str]
) -> None:
    configs = drawn(space(32, narrowing), 100)
    assert {config.commit.kind for config in configs} == expected
    for axis in narrowing.keys() - {"commit"}:
        assert {getattr(config, axis).kind for config in configs} == {narrowing[axis]}
    if "schedule" in narrowing:
        assert {config.commit.steps for config in configs} == {None}


def test_what_takes_the_place_of_a_kind_keeps_to_the_narrowing() -> None:
    narrowing = {"verify": "self_speculation", "schedule.block_length": [4, 8]}
    schedules = [config.schedule for config in drawn(space(32, narrowing))]
    assert {schedule.kind for schedule in schedules} == {"blocks", "whole"}
    lengths = {schedule.block_length for schedule in schedules if schedule.kind == "blocks"}
    assert lengths == {4, 8}


def other_programs(policy: Policy) -> bool:
    return bool(
        policy.needs
        or getattr(policy, "width", 0) > 0
        or getattr(policy, "lanes", 1) > 1
        or "filters" in policy.properties
    )


@pytest.mark.parametrize("spec", [SPEC, SHIFTED, BLOCK_CAUSAL])
def test_the_same_programs_leave_out_what_needs_others_and_nothing_else(
    spec: DenoiserSpec,
) -> None:
    full, short = search_space(spec, 32), search_space(spec, 32, same_programs=True)
    for axis in AXES:
        left_out = {kind for kind in full.kinds[axis] if other_programs(kinds_of(axis)[kind]())}
        assert {*full.kinds[axis]} - {*short.kinds[axis]} == left_out
    assert {config.statistics for config in drawn(short)} == {"greedy"}


def test_a_kind_that_is_named_is_searched_with_the_same_programs_too() -> None:
    searched = space(32, {"belief": ["mask", "smoothing"]}, same_programs=True)
    assert searched.kinds["belief"] == ("mask", "smoothing")
    assert searched.kinds["score"] == ("probability",)
    searched = space(32, {"commit.entropy.threshold": [0.1, 0.2]}, same_programs=True)
    assert {*searched.kinds["commit"]} == {*space(same_programs=True).kinds["commit"], "entropy"}


def test_knobs_of_kinds_that_were_not_chosen_are_not_drawn() -> None:
    for trial, _ in trials(space(), 20):
        owners = {".".join(name.split(".")[:2]) for name in trial.params if "kind" not in name}
        assert owners <= {f"{axis}.{trial.params[f'{axis}.kind']}" for axis in AXES}


@pytest.mark.parametrize(
    ("length", "choices"), [(32, (4, 8, 16, 32)), (12, (4, 8, 16)), (4, (4,)), (3, (4,))]
)
def test_block_lengths_that_cut_the_response_alike_are_one_choice(
    length: int, choices: tuple[int, ...]
) -> None:
    assert space(length).domains["schedule", "blocks"]["block_length"].choices == choices


def test_a_refresh_that_never_comes_is_left_out() -> None:
    searched = space(32, {"cache": ["dual", "prefix"], "schedule": ["blocks", "whole"]})
    for config in drawn(searched, 100):
        every = config.cache.refresh_every
        longest = max(end - start for start, end in config.schedule.blocks(32))
        assert every is None or every < longest


def test_a_window_that_slides_refreshes_after_more_tokens_than_it_has() -> None:
    narrowing = {"cache": "dual", "cache.refresh_every": 16, "schedule": "lookahead"}
    narrowing |= {"schedule.length": 8}
    assert {config.cache.refresh_every for config in drawn(space(32, narrowing), 5)} == {16}


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


def test_steps_of_a_block_are_searched() -> None:
    searched = search_space(SHIFTED, 32, {"commit": "timesteps", "schedule": "whole"})
    assert len({config.commit.steps for config in drawn(searched)}) > 5
    searched = search_space(BLOCK_CAUSAL, 32, {"commit": "dynamic", "schedule": "whole"})
    assert len({config.commit.steps for config in drawn(searched)}) > 1


def test_a_preset_outside_the_space_has_no_parameters() -> None:
    assert space(32, {"commit": "threshold"}).parameters(QUALITY_REFERENCE) is None
    assert space(32, {"commit.threshold": [0.2, 0.8]}).parameters(SPEED_BASELINE) is None
    assert space(32, {"cache.refresh_every": [4, 8]}).parameters(SPEED_BASELINE) is None
    first = SPEED_BASELINE.replace(cache={"kind": "dual", "window_first": "carried"})
    assert space().parameters(first) is None


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
        "schedule": "blocks",
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
        (
            {"belief": "lrd", "verify": "self_speculation"},
            "`belief.lrd` and `verify.self_speculation`, which do not go together: ",
        ),
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
