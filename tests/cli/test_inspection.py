"""`explain`, `bench` and `doctor`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_explain_counts_operators_before_and_after(dllmc: Callable, checkpoint: Path) -> None:
    found = dllmc("explain", checkpoint, "--json").json
    before, after = found["operators"]["before"], found["operators"]["after"]
    assert before["aten.scaled_dot_product_attention.default"] == 2
    assert before["aten.linear.default"] == 15
    assert sum(count for name, count in after.items() if ".linear." in name) == 9
    assert [name for name in after if "cached_attention" in name]
    assert "aten.scaled_dot_product_attention.default" not in after
    matched = {entry["name"]: (entry["matched"], entry["expected"]) for entry in found["passes"]}
    assert matched["match_attention"] == (2, 2)


def test_explain_gives_the_least_that_steps_must_cost(dllmc: Callable, artifact: Path) -> None:
    found = dllmc("explain", artifact, "--json").json
    floors = {floor["plan"]: floor for floor in found["floors"]}
    refresh = floors["b1-w64-r32-s64+1-greedy-limit-tokens-float32"]
    block = floors["b1-w32-r32-s64+1-greedy-limit-tokens-float32"]
    assert refresh["flops"] > block["flops"]
    # Several sequences read the weights once.
    together = floors["b16-w32-r32-s64+1-greedy-limit-tokens-float32"]
    assert together["flops"] == 16 * block["flops"]
    assert together["bytes"] < 16 * block["bytes"]
    machine = found["machine"]
    for floor in floors.values():
        reading, computing = (
            floor["bytes"] / machine["bandwidth"],
            floor["flops"] / machine["rate"],
        )
        assert floor["seconds"] == max(reading, computing)
    assert "reads and multiplies at" in dllmc("explain", artifact).out


def test_explain_knows_of_an_artifact_what_was_stored(
    dllmc: Callable, checkpoint: Path, artifact: Path
) -> None:
    model, stored = (dllmc("explain", of, "--json").json for of in (checkpoint, artifact))
    assert list(stored["operators"]) == ["after"]
    assert stored["operators"]["after"] == model["operators"]["after"]
    assert [entry["matched"] for entry in stored["passes"]] == [
        entry["matched"] for entry in model["passes"]
    ]


@pytest.mark.parametrize(
    ("side", "operator"), [("before", "scaled_dot_product_attention"), ("after", "dllmc.")]
)
def test_explain_prints_either_graph(
    dllmc: Callable, checkpoint: Path, side: str, operator: str
) -> None:
    ran = dllmc("explain", checkpoint, "--graph", side)
    assert ran.out.startswith("graph():")
    assert operator in ran.out


def test_explain_shows_both_graphs_beside_with_source_lines(
    dllmc: Callable, checkpoint: Path
) -> None:
    ran = dllmc("explain", checkpoint, "--graph", "beside")
    assert ran.status == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    norms = [words for words in lines if words[:1] == ["dllmc.rms_norm"]]
    assert len(norms) == 3
    for words in norms:
        assert words[1:-1] == ["pow", "mean", "add", "rsqrt", "mul×2"]
        assert re.fullmatch(r"llada\.py:\d+-\d+", words[-1])
    assert "model.transformer.blocks.0, and 1 like it, to model.transformer.blocks.1" in ran.out
    generic = ran.out.partition("left generic:\n")[2]
    assert re.search(r"^aten\.add ×4  llada\.py:", generic, re.MULTILINE)
    assert "linear" not in generic


def test_explain_writes_a_page_beside_its_tables(
    dllmc: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    found = dllmc("explain", checkpoint, "--html", path, "--json").json
    page = path.read_text()
    assert all(f"<code>{entry['name']}</code>" in page for entry in found["passes"])
    assert "floor ms" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ART", "--html", "FILE"), "is an artifact and holds the graph after the passes alone"),
        (("ART", "--graph", "beside"), "is an artifact and holds the graph after"),
        (("MODEL", "--graph", "besides"), "did you mean `beside`?"),
        (("MODEL", "--html", "no/such/folder/page.html"), "stands in no folder that exists"),
    ],
)
def test_explain_refuses_what_it_cannot_show(
    dllmc: Callable,
    checkpoint: Path,
    artifact: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    paths = {"ART": artifact, "MODEL": checkpoint, "FILE": tmp_path / "page.html"}
    ran = dllmc("explain", *(paths.get(word, word) for word in arguments))
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert not (tmp_path / "page.html").exists()


def test_bench_times_three_configurations_in_every_round(dllmc: Callable, artifact: Path) -> None:
    arguments = ("bench", artifact, "--rounds", 2, "--prompts", 2, "--batch", 2)
    found = dllmc(*arguments, "--task", "copy", "--max-new-tokens", 8, "--json").json
    timed = found["configurations"]
    assert list(timed) == ["QUALITY_REFERENCE", "SPEED_BASELINE", "auto"]
    assert all(len(entry["tokens_per_second"]) == 2 for entry in timed.values())
    assert all(rate > 0 for entry in timed.values() for rate in entry["tokens_per_second"])
    assert found["match"] == "SAFE"
    assert timed["auto"]["config"] == timed["QUALITY_REFERENCE"]["config"]
    [steps] = timed["QUALITY_REFERENCE"]["steps"]
    assert (steps["batch"], steps["rows"]) == (2, 40)
    assert len(steps["seconds"]) <= 2 * 2 * 8


def test_bench_without_a_task_decodes_random_tokens(dllmc: Callable) -> None:
    ran = dllmc("bench", "random:llada-tiny", "--rounds", 1, "--prompts", 1, "--max-new-tokens", 4)
    assert ran.status == 0, ran.err
    assert "auto is SAFE: quota, cache none, blocks 32" in ran.out
    assert "1 prompts, batch 1, 4 new tokens, 1 rounds" in ran.out


def test_doctor_finds_torch_and_always_succeeds(
    dllmc: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {entry["name"]: entry for entry in dllmc("doctor", "--json").json}
    assert found["torch"]["state"] == "ok"
    assert found["tuning database"]["found"].endswith("database: 0 records")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    ran = dllmc("doctor")
    assert ran.status == 0
    assert "install g++ for the inductor back end" in ran.out
    assert "back ends that run here: eager\n" in ran.out
    assert "with artifacts made for them: aot" in ran.out
