from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from example_records import FAST, record
from pydantic import ValidationError

from dllmc.spec import TuningDatabaseError
from dllmc.tuning_db import Record, Smoke, shipped, verify

SMOKE = {"prompt": [5, 6], "answer": "0a1b2c3d"}


def test_a_record_survives_json() -> None:
    text = json.dumps(record().to_json())
    assert Record.from_json(json.loads(text)) == record()


def test_a_record_with_smoke_prompts_survives_json_and_keeps_its_id() -> None:
    rich = record().model_copy(update={"smoke": (Smoke(prompt=(5, 6), answer="0a1b2c3d"),)})
    assert rich.to_json()["smoke"] == [SMOKE]
    assert Record.from_json(json.loads(json.dumps(rich.to_json()))) == rich
    assert rich.id == record().id


def test_shipped_files_are_written_as_they_were_with_smoke_prompts_or_without() -> None:
    values = [json.loads(entry.path.read_text()) for entry in shipped().entries()]
    # The first ones are from before there were smoke prompts.
    assert {"smoke" in value for value in values} == {True, False}
    for value in values:
        assert Record.from_json(value).to_json() == value
    assert verify(shipped()) == []


def test_the_id_is_a_hash_of_key_and_configuration_alone() -> None:
    assert len(record().id) == 24
    assert record(started="2027-01-01T00:00:00+00:00", margin=0.05).id == record().id
    assert record(name="renamed").id == record().id
    assert record(config={"commit": {"kind": "quota"}}).id != record().id
    others = [
        record(task="sort"),
        record(batch=8),
        record(torch="2.12.0"),
        record(execution="eager"),
        record(numerics="float32-eager-highest"),
        record(weights="b2" * 32),
    ]
    assert len({item.id for item in [record(), *others]}) == 7


def edited(change: dict[str, Any]) -> dict[str, Any]:
    value = copy.deepcopy(record().to_json())
    for path, new in change.items():
        *parents, last = path.split(".")
        at = value
        for parent in parents:
            at = at[parent]
        at[last] = new
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "has `schema_version`=3 and this dllmc reads up to 2"),
        ({"speed.ratio": 9.5}, "was changed after it was written"),
        ({"id": "0" * 24}, "where its key and configuration hash to"),
        ({"config": {"commit": {"kind": "quota"}}}, "where its key and configuration hash to"),
        ({"novelty": 1}, "`novelty`: Extra inputs are not permitted"),
        ({"quality": None}, "`status`='confirmed' needs `speed` and `quality`"),
        ({"status": "rejected"}, "`status`='rejected' needs a `reason`"),
        ({"key.workload.task": None}, "must name a task"),
        ({"applies_to.batch": {"low": 9, "high": 8}}, "`low`=9 must not exceed `high`=8"),
        ({"quality.value": float("nan")}, "not JSON compliant"),
        ({"key.model.weights_sha256": "../../etc"}, "`key.model.weights_sha256`"),
        ({"smoke": [SMOKE] * 5}, "`smoke`: Tuple should have at most 4 items"),
        ({"smoke": [SMOKE | {"prompt": []}]}, "`smoke.0.prompt`"),
        ({"smoke": [SMOKE | {"prompt": ["five"]}]}, "`smoke.0.prompt.0`"),
        ({"smoke": [SMOKE | {"answer": "zz"}]}, "`smoke.0.answer`"),
        ({"smoke": [SMOKE]}, "was changed after it was written"),
    ],
)
def test_a_wrong_record_is_refused_with_what_is_wrong(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TuningDatabaseError) as caught:
        Record.from_json(edited(change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_object_is_no_record() -> None:
    with pytest.raises(TuningDatabaseError, match="is not a JSON object"):
        Record.from_json([record().to_json()])


def test_a_record_is_frozen() -> None:
    with pytest.raises(ValidationError):
        record().status = "rejected"  # type: ignore[misc]


def test_a_range_holds_its_ends() -> None:
    batches = record(batches=(2, 4)).applies_to.batch
    assert [value for value in range(1, 6) if value in batches] == [2, 3, 4]
    assert str(batches) == "2 to 4"


def test_the_configuration_is_plain_json() -> None:
    assert record().to_json()["config"] == FAST
