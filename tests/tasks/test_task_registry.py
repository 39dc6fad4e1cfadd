from __future__ import annotations

from pathlib import Path

import pytest

import dllmc.tasks
from dllmc.spec import TaskError
from dllmc.tasks import JsonlTask, generator_tasks, get_task, task_names

ROOM = Path(dllmc.tasks.__file__).parent
NOT_TASKS = {"metrics", "jsonl"}
NAMES = sorted(
    path.stem.replace("_", "-") for path in ROOM.glob("[!_]*.py") if path.stem not in NOT_TASKS
)


def test_a_file_is_a_task_of_the_same_name() -> None:
    assert len(NAMES) >= 13
    assert list(task_names()) == NAMES
    assert [task.name for task in generator_tasks()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_task_answers_to_its_name(name: str) -> None:
    assert get_task(name).name == name


def test_a_typo_gets_the_nearest_name() -> None:
    with pytest.raises(TaskError, match=r"no task `sotr`; did you mean `sort`\?"):
        get_task("sotr")


def test_a_path_gives_the_task_of_the_file(tmp_path: Path) -> None:
    for name in ("mine.jsonl", "mine.txt"):
        path = tmp_path / name
        path.write_text('{"prompt": "p", "reference": "r"}\n')
        task = get_task(str(path))
        assert isinstance(task, JsonlTask)
        assert task.name == name


def test_a_missing_jsonl_file_is_a_missing_file_and_not_an_unknown_task() -> None:
    with pytest.raises(TaskError, match=r"cannot read the task file no/such\.jsonl"):
        get_task("no/such.jsonl")


def test_a_file_may_not_pass_for_a_built_in_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sort").write_text('{"prompt": "p", "reference": "r"}\n')
    monkeypatch.chdir(tmp_path)
    assert not isinstance(get_task("sort"), JsonlTask)
    with pytest.raises(TaskError, match="has the name of a built-in task; rename it"):
        get_task("./sort")
