"""A record of other software is applied only if its smoke prompts are answered as they were."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dllmc
from dllmc.autotune.recheck import recheck
from dllmc.runtime import Engine
from dllmc.runtime.records import key_of
from dllmc.runtime.smoke import smoke_of, smoke_test
from dllmc.tuning_db import Record, Smoke, Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tuning_db"))
from example_records import record

if TYPE_CHECKING:
    from collections.abc import Sequence

FAST = dllmc.SPEED_BASELINE.replace(schedule={"kind": "blocks", "block_length": 8})
SLOW = dllmc.SPEED_BASELINE.replace(cache={"kind": "none"})
TEXTS = ("copy: d a c b", "copy: a", "copy: b b c", "copy: d e", "copy: f")


@functools.cache
def compiled() -> Any:
    return dllmc.compile("embedded", backend="eager")


@pytest.fixture(autouse=True)
def _nothing_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes with dllmc may have been measured on a processor like this one."""
    monkeypatch.setattr("dllmc.autotune.recheck.shipped", lambda: Store(tmp_path / "ships"))


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    return compiled().engine(database=tmp_path)


def make(
    engine: Any, smoke: Sequence[Smoke], config: Any = FAST, torch: str = "2.0.0", day: int = 1
) -> Record:
    key = key_of(engine, task="copy", batch=1, max_new_tokens=32)
    example = record(config=config.model_dump(mode="json"), started=f"2026-11-{day:02}T00:00:00")
    software = {**key.software, "torch": torch}
    return example.model_copy(
        update={"key": key.model_copy(update={"software": software}), "smoke": tuple(smoke)}
    )


def of_a_lost_file(found: Record) -> Record:
    workload = found.key.workload.model_copy(update={"task": "lost.jsonl"})
    return found.model_copy(update={"key": found.key.model_copy(update={"workload": workload})})


def put(engine: Any, *records: Record) -> None:
    for each in records:
        Store(engine.database).put(each)


def said(engine: Any, config: Any = FAST) -> tuple[Smoke, ...]:
    return smoke_of(engine, config, [engine.encode(text) for text in TEXTS], 32)


def wrong(engine: Any) -> list[Smoke]:
    first, *rest = said(engine)
    return [first.model_copy(update={"answer": "0" * 8}), *rest]


def written(folder: Path) -> dict[str, int]:
    """When each file and folder was changed, nanoseconds."""
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def decode(engine: Any) -> Any:
    return engine.generate("copy: c b", task="copy", max_new_tokens=32)


def test_four_prompts_are_kept(engine: Any) -> None:
    assert [smoke.prompt for smoke in said(engine)] == [
        tuple(engine.encode(text)) for text in TEXTS[:4]
    ]


def test_the_same_tokens_let_it_be_applied(engine: Any) -> None:
    put(engine, found := make(engine, said(engine)))
    out = decode(engine)
    assert (out.record, out.match) == (found.id, "STALE_SPEED")
    assert any("4 of its 4 smoke prompts are answered as they were" in r for r in out.reasons)


def test_other_tokens_do_not(engine: Any) -> None:
    put(engine, found := make(engine, wrong(engine)))
    out = decode(engine)
    assert (out.record, out.match) == (None, "SAFE")
    assert f"record {found.id} is not applied: 3 of its 4 smoke prompts" in "; ".join(out.reasons)


def test_the_next_best_is_applied_instead(engine: Any) -> None:
    bad = make(engine, wrong(engine), day=2)
    good = make(engine, said(engine, SLOW), SLOW, day=1)
    put(engine, bad, good)
    out = decode(engine)
    assert out.record == good.id
    assert any(bad.id in reason for reason in out.reasons)


def test_an_engine_tests_a_record_once(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(engine, found := make(engine, said(engine)))
    decode(engine)
    calls: list[Any] = []
    monkeypatch.setattr("dllmc.runtime.smoke._test", lambda *given: calls.append(given))
    assert decode(engine).record == found.id
    assert calls == []


def test_testing_and_decoding_write_nothing(engine: Any) -> None:
    put(engine, make(engine, said(engine)), make(engine, wrong(engine), SLOW))
    before = written(engine.database)
    assert decode(engine).match == "STALE_SPEED"
    assert written(engine.database) == before


def test_a_database_that_is_no_folder_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = decode(compiled().engine(database=tmp_path / "file" / "db"))
    assert (out.record, out.match) == (None, "SAFE")


def test_what_was_measured_with_this_software_is_not_tested(engine: Any) -> None:
    key = key_of(engine, task="copy", batch=1, max_new_tokens=32)
    put(engine, found := make(engine, wrong(engine), torch=key.software["torch"]))
    out = decode(engine)
    assert (out.record, out.match, engine.smoked) == (found.id, "EXACT", {})


def test_without_smoke_prompts_it_is_applied_and_the_reasons_say_so(engine: Any) -> None:
    put(engine, found := make(engine, ()))
    out = decode(engine)
    assert out.record == found.id
    assert any("it has no smoke prompts" in reason for reason in out.reasons)


@pytest.mark.parametrize("prompt", [(10**6,), (5,) * 500, (1,)], ids=["unknown", "long", "mask"])
def test_prompts_that_cannot_be_decoded_are_a_reason(engine: Any, prompt: tuple[int, ...]) -> None:
    put(engine, make(engine, [Smoke(prompt=prompt, answer="0" * 8)]))
    out = decode(engine)
    assert (out.record, out.match) == (None, "SAFE")
    assert any("its smoke prompts cannot be decoded" in reason for reason in out.reasons)


def test_verify_uses_them_where_the_evidence_is_not_there(engine: Any) -> None:
    put(engine, make(engine, said(engine)))
    [checked] = recheck(engine, Store(engine.database))
    assert (checked.compared, checked.same, checked.problem) == (4, 4, None)
    put(engine, make(engine, wrong(engine)))
    [checked] = recheck(engine, Store(engine.database))
    assert checked.problem == (
        "only 3 of its 4 smoke prompts are answered as they were, with the same numerics; tune "
        "again"
    )


def test_verify_needs_no_task_for_them(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(engine, of_a_lost_file(make(engine, said(engine))))
    monkeypatch.setattr("dllmc.autotune.recheck._verdict_of", lambda *_: "the evidence is here")
    [checked] = recheck(engine, Store(engine.database))
    assert (checked.task, checked.compared, checked.problem) == ("lost.jsonl", 4, None)


@pytest.mark.parametrize("layer", ["artifact", "shipped"])
def test_verify_checks_what_the_artifact_and_dllmc_bring_along(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    found = make(engine, wrong(engine))
    if layer == "artifact":
        package = dataclasses.replace(engine.package, records=[found.to_json()])
        engine = Engine(package, database=engine.database)
    else:
        shipped = Store(tmp_path / "shipped")
        shipped.put(found)
        monkeypatch.setattr("dllmc.autotune.recheck.shipped", lambda: shipped)
    [checked] = recheck(engine, Store(engine.database))
    assert (checked.record, checked.compared, checked.same) == (found.id, 4, 3)
    put(engine, found)
    assert len(recheck(engine, Store(engine.database))) == 1


def test_a_record_that_was_measured_again_is_tested_again(engine: Any) -> None:
    good, bad = make(engine, said(engine)), make(engine, wrong(engine))
    assert good.id == bad.id
    assert smoke_test(engine, good).passed
    assert not smoke_test(engine, bad).passed
