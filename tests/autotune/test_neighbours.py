from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from dllmc.autotune import search_space
from dllmc.autotune.neighbours import neighbour
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.spec import DenoiserSpec

if TYPE_CHECKING:
    from dllmc.autotune.space import SearchSpace

SPEC = DenoiserSpec(mask_id=23, vocab_size=24, max_length=64)
NARROW = {
    "schedule": "blocks",
    "schedule.block_length": [4, 8, 16, 32],
    "belief": "mask",
    "score": "probability",
    "commit": "threshold",
    "cache": ["none", "dual"],
    "cache.dual.refresh_every": [None, 4],
    "verify": "none",
    "revise": "none",
}


@pytest.fixture
def space() -> SearchSpace:
    return search_space(SPEC, 32, NARROW)


def study_of(space: SearchSpace, *trials: tuple[DecodingConfig, float, float]) -> optuna.Study:
    """With trials of these configurations, speeds and losses beyond what is tolerated."""
    study = optuna.create_study(direction="maximize")
    for config, speed, excess in trials:
        parameters = space.parameters(config)
        assert parameters is not None
        study.enqueue_trial(parameters)
        trial = study.ask()
        trial.set_user_attr("config", space.suggest(trial).canonical_json())
        trial.set_constraint("quality", excess)
        study.tell(trial.number, speed)
    return study


def every(study: optuna.Study, space: SearchSpace) -> list[dict[str, Any]]:
    """All neighbours, each evaluated as slow before the next is asked for."""
    found = []
    while (parameters := neighbour(study, space, random.Random(0))) is not None:
        found.append(parameters)
        study.enqueue_trial(parameters)
        trial = study.ask()
        trial.set_user_attr("config", space.suggest(trial).canonical_json())
        trial.set_constraint("quality", 1.0)
        study.tell(trial.number, 0.0)
    return found


BEST = SPEED_BASELINE.replace(
    schedule={"kind": "blocks", "block_length": 8}, commit={"kind": "threshold", "threshold": 0.9}
)


def test_each_is_one_step_from_the_best_and_comes_once(space: SearchSpace) -> None:
    start = space.parameters(BEST)
    assert start is not None
    found = every(study_of(space, (BEST, 1.0, -0.01)), space)
    steps = [
        {name: other for name, other in parameters.items() if start.get(name) != other}
        for parameters in found
    ]
    thresholds = [s.pop("commit.threshold.threshold", None) for s in steps]
    assert sorted(t for t in thresholds if t is not None) == pytest.approx([0.83, 0.97], abs=0.03)
    assert [s for s in steps if s in ({"schedule.blocks.block_length": 4}, {"cache.kind": "none"})]
    assert {str(s) for s in steps if s} == {
        str({"schedule.blocks.block_length": 4}),
        str({"schedule.blocks.block_length": 16}),
        str({"cache.kind": "none"}),
        str({"cache.dual.refresh_every": 4}),
    }
    assert len(found) == 6


def test_a_kind_that_comes_in_has_the_usual_values_of_its_knobs(space: SearchSpace) -> None:
    plain = BEST.replace(cache={"kind": "none"})
    found = every(study_of(space, (plain, 1.0, -0.01)), space)
    (dual,) = (p for p in found if p["cache.kind"] == "dual")
    assert dual["cache.dual.refresh_every"] is None


@pytest.mark.parametrize(
    ("config", "excess"), [(BEST, 0.01), (QUALITY_REFERENCE, -0.01)], ids=["lossy", "reference"]
)
def test_there_are_none_of_what_is_too_lossy_or_the_reference(
    config: DecodingConfig, excess: float
) -> None:
    space = search_space(SPEC, 32, {**NARROW, "commit": ["threshold", "quota"]})
    assert neighbour(study_of(space, (config, 1.0, excess)), space, random.Random(0)) is None


def test_the_fastest_comes_first(space: SearchSpace) -> None:
    slow = BEST.replace(schedule={"kind": "blocks", "block_length": 32}, cache={"kind": "none"})
    found = neighbour(study_of(space, (slow, 0.5, -1), (BEST, 1.0, -1)), space, random.Random(0))
    start = space.parameters(BEST)
    assert found is not None
    assert start is not None
    assert len(set(found.items()) ^ set(start.items())) <= 3


def test_every_step_in_the_whole_space_is_a_configuration_of_it_or_refused() -> None:
    space, rng = search_space(SPEC, 32), random.Random(0)
    study = study_of(space, (BEST, 1.0, -0.01))
    for _ in range(60):
        parameters = neighbour(study, space, rng)
        if parameters is None:
            break
        study.enqueue_trial(parameters)
        trial = study.ask()
        config = space.suggest(trial)
        trial.set_user_attr("config", config.canonical_json())
        trial.set_constraint("quality", -0.01)
        study.tell(trial.number, rng.random())
    assert len(study.trials) > 40
