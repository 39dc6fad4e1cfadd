from __future__ import annotations

import itertools
import json
import random
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllmc.spec import TaskError
from dllmc.tasks import SPLITS, VALID_ANSWER, GeneratorTask, Sample, generator_tasks, split_of

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = {task.name: task for task in generator_tasks()}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


def _replace(old: str, new: str, _colon: str, *items: str) -> str:
    return " ".join(items).replace(old, new)


def _running_sum(*items: str) -> str:
    return " ".join(str(sum(map(int, items[: i + 1])) % 10) for i in range(len(items)))


def _written(first: str, _plus: str, second: str) -> str:
    a, b = int(first), int(second)
    lines = []
    for unit in (1, 10, 100):
        x, y, carry = a // unit % 10, b // unit % 10, (a % unit + b % unit) // unit
        lines.append(f"{x}+{y}+{carry}={x + y + carry}")
    return f"{' '.join(lines)} : {a + b}"


def _record(name: str, age: str, city: str) -> str:
    return json.dumps({"city": city, "age": int(age), "name": name})


SOLVERS: dict[str, Callable[..., str]] = {
    "copy": lambda *items: " ".join(items),
    "reverse": lambda *items: " ".join(items[::-1]),
    "sort": lambda *items: " ".join(sorted(items)),
    "replace": _replace,
    "addition": lambda first, _plus, second: str(int(first) + int(second)),
    "running-sum": _running_sum,
    "written-addition": _written,
    "json-record": _record,
}


def documented_example(task: GeneratorTask) -> tuple[str, str]:
    found = re.search(r"`([^`]+)` -> `([^`]+)`", type(task).__doc__ or "")
    assert found, f"{task.name} documents no example"
    return found[1], found[2]


def drawn(name: str, count: int = 50) -> list[Sample]:
    return TASKS[name].samples("tune", count)


@given(st.sampled_from(sorted(TASKS)), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_no_two_splits_share_a_prompt_whatever_the_seeds(name: str, one: int, two: int) -> None:
    seeds = (one, two, one, two)
    prompts = [
        {s.prompt for s in TASKS[name].samples(split, 40, seed)}
        for split, seed in zip(SPLITS, seeds, strict=True)
    ]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(prompts, 2))


@every_task
def test_the_same_seed_gives_the_same_samples_and_another_seed_others(task: GeneratorTask) -> None:
    assert task.samples("confirm", 50, 3) == task.samples("confirm", 50, 3)
    assert task.samples("confirm", 50, 3) != task.samples("confirm", 50, 4)
    assert task.samples("confirm", 80, 3)[:50] == task.samples("confirm", 50, 3)


@every_task
def test_samples_are_distinct_and_as_many_as_asked_for(task: GeneratorTask) -> None:
    assert len({sample.prompt for sample in task.samples("test", 300)}) == 300


@every_task
def test_every_reference_is_right(task: GeneratorTask) -> None:
    assert all(task.score(s, str(s.reference)) for s in task.samples("confirm", 200))


@every_task
@pytest.mark.parametrize("spoil", ["", "x y z", "{}", "0"])
def test_nonsense_is_wrong(task: GeneratorTask, spoil: str) -> None:
    assert not any(task.score(sample, spoil) for sample in task.samples("confirm", 50))


@every_task
def test_a_truncated_or_lengthened_answer_is_wrong(task: GeneratorTask) -> None:
    for sample in task.samples("confirm", 50):
        reference = str(sample.reference)
        assert not task.score(sample, reference[:-1])
        assert not task.score(sample, f"{reference} x")


@pytest.mark.parametrize("name", SOLVERS)
def test_a_task_with_one_answer_has_the_answer_that_its_words_say(name: str) -> None:
    for sample in drawn(name):
        _, *arguments = sample.prompt.split()
        assert TASKS[name].score(sample, SOLVERS[name](*arguments))


@every_task
def test_the_documented_example_is_true(task: GeneratorTask) -> None:
    prompt, answer = documented_example(task)
    if task.name in SOLVERS:
        expected = SOLVERS[task.name](*prompt.split()[1:])
        assert task.score(Sample(prompt, expected, drawn(task.name, 1)[0].metric), answer)
    else:
        assert task.score(Sample(prompt, "", VALID_ANSWER), answer)


@every_task
def test_the_documented_prompt_has_the_form_of_the_drawn_ones(task: GeneratorTask) -> None:
    def form(prompt: str) -> str:
        head, rest = prompt.split(maxsplit=1)
        return head + re.sub(r"(?: ?\b[a-z0-9]+\b)+", "_", rest)

    assert form(documented_example(task)[0]) in {form(s.prompt) for s in drawn(task.name)}


@pytest.mark.parametrize("name", sorted(TASKS.keys() - SOLVERS.keys()))
def test_where_several_answers_are_right_the_metric_says_so(name: str) -> None:
    assert {sample.metric for sample in drawn(name)} == {VALID_ANSWER}


@pytest.mark.parametrize(
    ("name", "prompt", "right", "wrong"),
    [
        (
            "shuffle",
            "shuffle: a b c",
            ["a c b", "b a c", "b c a", "c a b", "c b a"],
            ["a b c", "a b", "a b b", "a b c c", "a c d"],
        ),
        (
            "insert-random",
            "insert: x : a b c",
            ["x a b c", "a x b c", "a b x c", "a b c x"],
            ["a b c", "x b c", "a x b x c", "x a c b", "x x a b c", "a b c d"],
        ),
        (
            "replace-random",
            "change: x : a b c",
            ["x b c", "a x c", "a b x"],
            ["a b c", "x x c", "x x x", "x a b c", "b x c"],
        ),
        (
            "pick-template",
            "greet: bob oslo monday 47",
            [
                "dear bob , welcome to oslo on monday for room 47",
                "hello bob , room 47 in oslo is free on monday",
                "monday is a good day for oslo , bob : see room 47",
                "room 47 waits for you in oslo , bob , on monday",
            ],
            [
                "dear bob , room 47 in oslo is free on monday",
                "hello bob , welcome to oslo on monday for room 47",
                "hello bob , room 47 in rome is free on monday",
                "hello bob , room 74 in oslo is free on monday",
            ],
        ),
        (
            "words-to-sentence",
            "sentence: cat dog sees red",
            [
                "the red cat sees a dog",
                "the red dog sees a cat",
                "a cat sees the red dog",
                "a dog sees the red cat",
            ],
            [
                "the red cat sees a cat",
                "the red cat sees the red dog",
                "a cat sees a dog",
                "a red cat sees the dog",
            ],
        ),
        (
            "json-record",
            "json: bob 31 oslo",
            ['{"name":"bob","age":31,"city":"oslo"}', '{"age": 31, "city":"oslo","name":"bob"}'],
            [
                '{"name":"bob","age":"31","city":"oslo"}',
                '{"name":"bob","age":31}',
                '{"name":"bob","age":31,"city":"oslo"',
                '{"name":"oslo","age":31,"city":"bob"}',
            ],
        ),
    ],
)
def test_free_answers_are_right_only_as_a_whole(
    name: str, prompt: str, right: list[str], wrong: list[str]
) -> None:
    if name == "json-record":
        sample = Sample(prompt, right[0], "json-equal")
    else:
        sample = Sample(prompt, right[0], VALID_ANSWER)
    assert [answer for answer in right if not TASKS[name].score(sample, answer)] == []
    assert [answer for answer in wrong if TASKS[name].score(sample, answer)] == []


@pytest.mark.parametrize("name", ["copy", "pick-template", "running-sum"])
def test_a_confirm_split_reaches_the_cap(name: str) -> None:
    assert len(TASKS[name].samples("confirm", 8192)) == 8192


def test_a_small_task_gives_what_it_has() -> None:
    # 20 * 19 * 12 * 10 = 45,600 prompts, of which about 12 % confirm.
    assert 5200 < len(TASKS["words-to-sentence"].samples("confirm", 8192)) < 5700


@pytest.mark.parametrize("name", sorted(TASKS))
def test_splits_have_about_their_shares(name: str) -> None:
    rng = random.Random(0)
    splits = [split_of(TASKS[name].draw(rng).prompt) for _ in range(3000)]
    shares = {split: splits.count(split) / 3000 for split in SPLITS}
    assert shares == pytest.approx(
        {"train": 0.7, "tune": 0.08, "confirm": 0.12, "test": 0.1}, abs=0.04
    )


def test_a_wrong_split_or_count_is_refused() -> None:
    with pytest.raises(TaskError, match=r"`tset` is not a split; did you mean `test`\?"):
        TASKS["copy"].samples("tset", 1)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="a count of 0 samples is none"):
        TASKS["copy"].samples("test", 0)
