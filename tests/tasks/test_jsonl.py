from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dllmc.spec import TaskError
from dllmc.tasks import SPLITS, JsonlTask, Sample

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, *lines: object) -> Path:
    path = folder / "mine.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def numbered(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"say {i}", "reference": str(i)} for i in range(count)]


def test_a_line_needs_only_prompt_and_reference(tmp_path: Path) -> None:
    line = {"prompt": "p", "reference": "r", "split": "tune"}
    task = JsonlTask(write(tmp_path, line))
    assert task.samples("tune", 5) == [Sample("p", "r", "exact")]
    assert task.name == "mine.jsonl"
    assert task.kind == "user"


@pytest.mark.parametrize(
    ("metric", "reference", "right", "wrong"),
    [
        ("exact", "a b", "a  b", "a"),
        ("one-of", ["a", "b"], "b", "c"),
        ("numeric", 18, "it is 18", "it is 19"),
        ("numeric", 0.5, "0.50", "0.6"),
        ("numeric", "1,000", "1000", "1"),
        ("regex", "a+", "aaa", "b"),
        ("json-equal", {"k": [1, None]}, '{"k":[1,null]}', "{}"),
        ("json-equal", '{"k": 1}', '{"k":1}', '{"k":2}'),
    ],
)
def test_a_line_is_judged_by_its_metric(
    tmp_path: Path, metric: str, reference: object, right: str, wrong: str
) -> None:
    line = {"prompt": "p", "reference": reference, "metric": metric, "split": "test"}
    task = JsonlTask(write(tmp_path, line))
    (sample,) = task.samples("test", 1)
    assert task.score(sample, right)
    assert not task.score(sample, wrong)


def test_without_splits_the_prompts_tune_confirm_and_test_and_none_trains(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path, *numbered(1000)))
    held = {split: len(task.samples(split, 1000)) for split in ("tune", "confirm", "test")}
    assert sum(held.values()) == 1000
    assert held == pytest.approx({"tune": 400, "confirm": 500, "test": 100}, abs=50)
    with pytest.raises(TaskError, match="no prompts in split `train`"):
        task.samples("train", 1)


def test_an_added_line_moves_no_other_to_another_split(tmp_path: Path) -> None:
    def splits(count: int) -> dict[str, str]:
        task = JsonlTask(write(tmp_path, *numbered(count)))
        return {s.prompt: x for x in SPLITS[1:] for s in task.samples(x, count)}

    assert splits(100).items() <= splits(101).items()


def test_a_seed_picks_the_samples(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path, *numbered(200)))
    assert task.samples("tune", 10, 1) == task.samples("tune", 10, 1)
    assert task.samples("tune", 10, 1) != task.samples("tune", 10, 2)
    assert task.samples("tune", 20, 1)[:10] == task.samples("tune", 10, 1)


def test_blank_lines_a_byte_order_mark_and_unusual_line_separators_are_read(
    tmp_path: Path,
) -> None:
    text = '\ufeff{"prompt": "a\u2028b", "reference": "r", "split": "tune"}\r\n\n  \n'
    path = tmp_path / "mine.jsonl"
    path.write_bytes(text.encode())
    assert JsonlTask(path).samples("tune", 9) == [Sample("a\u2028b", "r", "exact")]


GOOD = {"prompt": "p", "reference": "r"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: { is not JSON"),
        pytest.param("[" * 100_000, "is not JSON", id="deeply-nested"),
        ("[1]", "line 2: [1] is not a JSON object"),
        ({**GOOD, "refrence": "x"}, "unknown key `refrence`; did you mean `reference`?"),
        ({"reference": "r"}, "`prompt` is missing; add it"),
        ({"prompt": "p"}, "`reference` is missing; add it"),
        ({**GOOD, "prompt": " "}, '`prompt` is " "; give a text'),
        ({**GOOD, "prompt": 5}, "`prompt` is 5; give a text"),
        ({**GOOD, "prompt": "\ud800"}, "half a surrogate pair"),
        ({**GOOD, "metric": "exakt"}, "`exakt` is not a metric; did you mean `exact`?"),
        ({**GOOD, "metric": None}, "`metric` is null; known: exact"),
        ({**GOOD, "split": "tset"}, '`split` is "tset"; did you mean `test`?'),
        ({**GOOD, "split": ["test"]}, '`split` is ["test"]'),
        ({**GOOD, "reference": 5}, "`reference` is 5; `exact` needs a text"),
        ({**GOOD, "reference": True, "metric": "numeric"}, "`reference` is true"),
        ({**GOOD, "reference": ["a", 1], "metric": "one-of"}, '`reference` is ["a", 1]'),
        ({**GOOD, "reference": ["a"]}, "only `one-of` takes a list"),
        ({**GOOD, "metric": "one-of"}, "`one-of` needs a list of strings"),
        ({**GOOD, "metric": "numeric"}, "`numeric` needs one number"),
        ({**GOOD, "metric": "regex", "reference": "("}, "is not a regular expression"),
        ({**GOOD, "metric": "json-equal"}, "`json-equal` needs JSON"),
        ({"prompt": "first", "reference": "r"}, "'first' stands on line 1 already; delete one"),
    ],
)
def test_a_wrong_line_is_named_with_its_value_and_the_remedy(
    tmp_path: Path, line: object, message: str
) -> None:
    path = write(tmp_path, {"prompt": "first", "reference": "r"}, line)
    with pytest.raises(TaskError) as caught:
        JsonlTask(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="holds no prompts; write one"):
        JsonlTask(write(tmp_path, "", " "))


def test_a_missing_file_a_folder_and_binary_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"cannot read the task file .*; check the path"):
        JsonlTask(tmp_path / "none.jsonl")
    with pytest.raises(TaskError, match=r"cannot read the task file .*; check the path"):
        JsonlTask(tmp_path)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match="is not UTF-8 text"):
        JsonlTask(tmp_path / "binary.jsonl")


def test_an_empty_split_says_what_the_file_holds(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path, {**GOOD, "split": "tune"}))
    with pytest.raises(TaskError, match=r"split `confirm` \(0 train, 1 tune, 0 confirm, 0 test\)"):
        task.samples("confirm", 1)
