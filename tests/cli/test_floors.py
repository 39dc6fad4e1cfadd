"""`bench --oracle`, and configurations that `bench` is given."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dllmc.policies.config import SPEED_BASELINE
from dllmc.policies.published import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHORT = {"schedule": {"kind": "blocks", "block_length": 4}}
FEW = ("--prompts", 2, "--batch", 2, "--max-new-tokens", 8)


def test_every_configuration_is_compared_with_the_oracle_of_its_blocks(
    dllmc: Callable, artifact: Path
) -> None:
    asked = ("--oracle", "--task", "copy", "--config", json.dumps(SHORT), "--json")
    found = dllmc("bench", artifact, *asked, *FEW).json
    assert found["prompts"] == 2
    assert list(found["tasks"]) == ["copy"]
    entries = found["tasks"]["copy"]
    given = "threshold 0.9, dual, blocks 4"
    assert list(entries) == ["QUALITY_REFERENCE", "SPEED_BASELINE", "auto", given]
    assert [entry["block_length"] for entry in entries.values()] == [8, 8, 8, 4]
    reference, auto = entries["QUALITY_REFERENCE"], entries["auto"]
    assert (reference["nfe"], reference["oracle_nfe"]) == (auto["nfe"], auto["oracle_nfe"])
    for floor, most in zip(reference["oracle_nfe"], reference["nfe"], strict=True):
        assert 1 <= floor <= most <= 8
    for entry in entries.values():
        assert entry["ratio"] == sum(entry["nfe"]) / sum(entry["oracle_nfe"])
    assert entries[given]["config"]["schedule"] == SHORT["schedule"]


def test_every_published_strategy_is_compared_with_the_oracle(
    dllmc: Callable, artifact: Path
) -> None:
    ran = dllmc("bench", artifact, "--oracle", "--published", "--task", "copy", "--json", *FEW)
    entries = ran.json["tasks"]["copy"]
    asking = {strategy.name for strategy in STRATEGIES if strategy.auxiliary}
    assert list(entries)[3:] == [s.name for s in STRATEGIES if s.name not in asking]
    assert entries["LLaDA"]["config"]["schedule"] == {"kind": "blocks", "block_length": 8}
    assert entries["LLaDA"]["ratio"] == entries["QUALITY_REFERENCE"]["ratio"]
    assert sum(entries["LLaDA, half the steps"]["nfe"]) == sum(entries["LLaDA"]["nfe"]) / 2
    for name in asking:
        assert f"without {name}: it asks a causal model too" in ran.err


def test_with_a_causal_model_those_that_ask_one_are_compared_too(
    dllmc: Callable, artifact: Path
) -> None:
    asked = ("--oracle", "--published", "--task", "copy", "--auxiliary", "auxiliary", "--json")
    ran = dllmc("bench", artifact, *asked, *FEW)
    assert list(ran.json["tasks"]["copy"])[3:] == [strategy.name for strategy in STRATEGIES]
    assert ran.err == ""


def test_what_the_model_cannot_decode_is_left_out_with_the_reason(dllmc: Callable) -> None:
    ran = dllmc("bench", "random:sdar-tiny", "--oracle", "--published", "--json", *FEW)
    entries = ran.json["tasks"]["random tokens"]
    assert "LLaDA" in entries
    assert not {"AdaBlock", "Sparse-dLLM"} & set(entries)
    assert "without AdaBlock: the tokenizer has no delimiters" in ran.err
    assert "without Sparse-dLLM: `cache.kind`='sparse' is for full attention" in ran.err


def test_a_model_without_words_decodes_random_tokens(dllmc: Callable) -> None:
    ran = dllmc("bench", "random:llada-tiny", "--oracle", "--prompts", 1, "--max-new-tokens", 4)
    assert ran.status == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines() if line]
    assert lines[1] == ["task", "configuration", "block", "NFE", "oracle", "NFE", "ratio"]
    assert [line[-5] for line in lines[2:]] == ["QUALITY_REFERENCE", "SPEED_BASELINE", "auto"]
    assert lines[2][:2] == ["random", "tokens"]
    assert lines[2][-1].endswith("x")


@pytest.mark.parametrize(
    "text",
    ["SPEED_BASELINE", pytest.param(SPEED_BASELINE.canonical_json(), marks=pytest.mark.slow)],
)
def test_more_configurations_are_timed_beside_the_three(dllmc: Callable, text: str) -> None:
    arguments = ("--rounds", 2, "--prompts", 1, "--max-new-tokens", 4, "--config", text, "--json")
    timed = dllmc("bench", "random:llada-tiny", *arguments).json["configurations"]
    name = text if text == "SPEED_BASELINE" else "threshold 0.9, dual, blocks 32"
    assert list(timed) == list(
        dict.fromkeys(["QUALITY_REFERENCE", "SPEED_BASELINE", "auto", name])
    )
    assert all(len(entry["tokens_per_second"]) == 2 for entry in timed.values())
    assert timed[name]["config"] == timed["SPEED_BASELINE"]["config"]


def test_a_configuration_that_is_none_is_refused_before_the_model_opens(dllmc: Callable) -> None:
    ran = dllmc("bench", "no-such-model", "--config", "no-such-file.json")
    assert (ran.status, ran.out) == (2, "")
    assert "`no-such-file.json` is no configuration file" in ran.err
