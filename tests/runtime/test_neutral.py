"""What a record says of execution is taken up, or said not to be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import dllmc
from dllmc.runtime.neutral import apply_neutral, unsaid
from dllmc.runtime.records import key_of
from dllmc.spec import TuningDatabaseError
from dllmc.tuning_db import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tuning_db"))
from example_records import record

FAST = dllmc.SPEED_BASELINE.replace(schedule={"kind": "blocks", "block_length": 8})


@pytest.fixture(scope="module")
def engine() -> Any:
    return dllmc.compile("embedded", backend="eager").engine()


def put(engine: Any, folder: Path, neutral: dict[str, Any], config: dict[str, Any]) -> str:
    example = record(config=config)
    found = example.model_copy(
        update={
            "key": key_of(engine, task="copy", batch=1, max_new_tokens=32),
            "neutral": neutral,
        }
    )
    Store(folder).put(found)
    return found.id


def decode(engine: Any, folder: Path, **options: Any) -> Any:
    engine.database = folder
    return engine.generate("copy: d a c b", task="copy", max_new_tokens=32, **options)


def test_a_knob_of_a_later_version_is_a_reason_and_strictly_an_error(
    engine: Any, tmp_path: Path
) -> None:
    name = put(engine, tmp_path, {"unroll": 4}, FAST.model_dump(mode="json"))
    out = decode(engine, tmp_path)
    assert (out.record, out.config) == (name, FAST)
    assert any("its knob `unroll`=4 is not known" in reason for reason in out.reasons)
    with pytest.raises(TuningDatabaseError, match=r"`unroll`=4 is not known .* `dllmc retarget`"):
        decode(engine, tmp_path, strict=True)


def test_what_a_record_leaves_unsaid_takes_its_default_and_is_named(
    engine: Any, tmp_path: Path
) -> None:
    config = FAST.model_dump(mode="json")
    del config["revise"]
    del config["cache"]["refresh_every"]
    put(engine, tmp_path, {}, config)
    out = decode(engine, tmp_path)
    assert out.config == FAST
    assert any("does not say `cache.refresh_every`, so that is None" in r for r in out.reasons)
    assert any("does not say `revise.kind`, so that is 'none'" in r for r in out.reasons)
    with pytest.raises(TuningDatabaseError, match="does not say"):
        decode(engine, tmp_path, strict=True)


def test_a_whole_record_is_applied_strictly_without_a_word(engine: Any, tmp_path: Path) -> None:
    name = put(engine, tmp_path, {"select": "plain"}, FAST.model_dump(mode="json"))
    out = decode(engine, tmp_path, strict=True)
    assert (out.record, list(out.reasons)) == (name, [])


def test_compiled_decisions_are_not_for_a_back_end_that_compiles_nothing(engine: Any) -> None:
    assert apply_neutral(engine, FAST, {"select": "compiled"}) == [
        "its knob `select`='compiled' needs another back end than `eager`"
    ]


@pytest.mark.slow
def test_compiled_decisions_are_compiled_and_decide_the_same(tmp_path: Path) -> None:
    engine = dllmc.compile("embedded", backend="inductor").engine()
    plain = engine.generate("copy: d a c b", config=FAST)
    put(engine, tmp_path, {"select": "compiled"}, FAST.model_dump(mode="json"))
    out = decode(engine, tmp_path, strict=True)
    assert engine.selects.compiled > 0
    assert out.tokens == plain.tokens
    assert out.nfe == plain.nfe


def test_a_value_may_be_a_mapping_of_its_own_without_being_missed() -> None:
    assert unsaid(FAST, FAST.model_dump(mode="json")) == []
