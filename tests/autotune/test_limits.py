"""Memory and compile time as constraints of the search."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from planted_world import SPACE, PlantedEngine

import dllmc
from dllmc.autotune import search, study, tune
from dllmc.autotune.evaluator import batches
from dllmc.autotune.limits import Limits, memory_of, read_limits
from dllmc.autotune.storage import parse_storage
from dllmc.runtime.programs import cache_shapes
from dllmc.spec import TuningError
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.policies.config import DecodingConfig

MEBIBYTE = 2**20

pytestmark = pytest.mark.usefixtures("in_memory")


@dataclass
class HoldingEngine(PlantedEngine):
    """Holds a mebibyte per sequence, and as much again where blocks have 32 tokens."""

    device: Any = field(default_factory=lambda: torch.device("cpu"))
    package: Any = field(
        default_factory=lambda: SimpleNamespace(
            graph_sha256=None, passes_sha256=None, graphs={}, precision=None
        )
    )

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def open(self, prompts: list[Any], config: DecodingConfig, _: int) -> Any:
        each = 2 if config.schedule.block_length == 32 else 1
        canvas = torch.empty(len(prompts) * each * MEBIBYTE, dtype=torch.uint8)
        return SimpleNamespace(canvas=canvas, caches={}, kept={}, memory={}), []


def trials(report: Any) -> list[optuna.trial.FrozenTrial]:
    opened = study._open(parse_storage(report.storage))
    return optuna.load_study(study_name=report.study, storage=opened).get_trials()


def run(engine: PlantedEngine, folder: Path, trials: int = 16, **options: Any) -> Any:
    return tune(
        engine,
        "copy",
        budget=None,
        trials=trials,
        batch=16,
        db=folder,
        space=SPACE,
        progress=None,
        clock=engine.clock,
        **options,
    )


def test_what_takes_more_memory_is_never_picked(tmp_path: Path) -> None:
    engine = HoldingEngine()
    report = run(engine, tmp_path, max_memory="20MiB")
    assert report.status == "confirmed"
    assert report.config.schedule.block_length != 32
    over = [t for t in trials(report) if t.constraints.get("memory", 0) > 0]
    assert over
    assert all(t.state.name == "PRUNED" and t.user_attrs["memory"] > 20 * 2**20 for t in over)


def test_what_takes_long_to_compile_is_never_picked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        search, "compile_seconds", lambda _, config: 90.0 * (config.cache.kind == "dual")
    )
    engine = HoldingEngine()
    report = run(engine, tmp_path, max_compile="1m")
    assert report.status == "confirmed"
    assert report.config.cache.kind != "dual"
    assert any(t.constraints.get("compiling", 0) == 30 for t in trials(report))


def test_another_limit_is_another_job(tmp_path: Path) -> None:
    studies = {
        run(HoldingEngine(), tmp_path, trials=1, max_memory=limit).study
        for limit in (None, "2GiB", "1GiB")
    }
    assert len(studies) == 3


def test_weights_and_caches_are_counted_once() -> None:
    engine = dllmc.compile("embedded", backend="eager").engine()
    samples = get_task("copy").samples("tune", 8)
    [four] = batches(samples[:4], 4)
    [eight] = batches(samples, 8)
    config = dllmc.SPEED_BASELINE
    less, more = (memory_of(engine, config, b, 32) for b in (four, eight))
    held = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for graph in engine.package.graphs.values()
        for value in graph.state_dict(keep_vars=True).values()
    }
    weights = sum(held.values())
    shapes = cache_shapes(engine.package.graphs["greedy"]).values()
    # Every canvas has 32 slots for the prompt, 32 for the response and a scratch one.
    caches = 8 * sum(groups * width * 4 * 65 for groups, width in shapes)
    assert weights + caches < more < weights + 1.1 * caches
    assert 0.5 * caches < more - less < 0.55 * caches


@pytest.mark.parametrize(
    ("memory", "compiling", "found"),
    [
        ("2GiB", None, Limits(2 * 2**30)),
        ("1.5 gb", "90s", Limits(1_500_000_000, 90.0)),
        (4096, 5, Limits(4096, 5.0)),
        (None, None, Limits()),
    ],
)
def test_amounts_are_read(memory: Any, compiling: Any, found: Limits) -> None:
    assert read_limits(memory, compiling) == found


@pytest.mark.parametrize("memory", ["2 apples", "0", "-1GiB", "GiB"])
def test_what_is_no_amount_is_refused(memory: str) -> None:
    with pytest.raises(TuningError, match=r"`max_memory`=.* write bytes, or 512MiB or 2GiB"):
        read_limits(memory, None)
    with pytest.raises(TuningError, match=r"`max_compile`='soon' is not a positive time"):
        read_limits(None, "soon")
