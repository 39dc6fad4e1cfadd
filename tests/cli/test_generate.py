from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROMPTS = ["sort: d a c b", "copy: a b", "running: 3 1 4"]
CONFIGS = {
    "quality reference": "QUALITY_REFERENCE",
    "speed baseline": "speed-baseline",
    "prefix cache by factor": json.dumps(
        {
            "schedule": {"kind": "blocks", "block_length": 8},
            "commit": {"kind": "factor", "factor": 1.5},
            "cache": {"kind": "prefix", "refresh_every": 4},
        }
    ),
    "sampled": json.dumps({"temperature": 0.7, "seed": 5, "stop": {"kind": "length"}}),
}


def test_json_is_exactly_what_was_decoded(dllmc: Callable, artifact: Path) -> None:
    found = dllmc("generate", artifact, PROMPTS[0], "--max-new-tokens", 8, "--json").json
    assert list(found) == ["tokens", "nfe", "record", "match", "text"]
    assert 1 <= len(found["tokens"]) <= 8
    assert all(isinstance(token, int) for token in found["tokens"])
    assert found["nfe"] <= 8
    assert (found["record"], found["match"]) == (None, "SAFE")
    assert isinstance(found["text"], str)


def test_several_prompts_give_a_list_in_their_order(dllmc: Callable, artifact: Path) -> None:
    together = dllmc("generate", artifact, *PROMPTS, "--json").json
    alone = [dllmc("generate", artifact, prompt, "--json").json for prompt in PROMPTS]
    assert together == alone


def test_ids_and_their_text_decode_alike(dllmc: Callable, artifact: Path) -> None:
    import dllmc as package

    ids = package.load(artifact).encode(PROMPTS[0])
    by_ids = dllmc("generate", artifact, "--token-ids", ",".join(map(str, ids)), "--json").json
    assert by_ids == dllmc("generate", artifact, PROMPTS[0], "--json").json


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(value, id=name, marks=[pytest.mark.slow] if "cache" not in value else [])
        for name, value in CONFIGS.items()
    ],
)
def test_runtime_and_reference_agree(dllmc: Callable, checkpoint: Path, config: str) -> None:
    arguments = ("generate", checkpoint, *PROMPTS, "--config", config, "--stream", 3, "--json")
    runtime = dllmc(*arguments).json
    reference = dllmc(*arguments, "--engine", "reference").json
    assert runtime == reference
    assert {answer["match"] for answer in runtime} == {"GIVEN"}


def test_an_artifact_and_its_model_decode_alike(
    dllmc: Callable, artifact: Path, checkpoint: Path
) -> None:
    arguments = (*PROMPTS, "--config", CONFIGS["sampled"], "--json")
    assert dllmc("generate", artifact, *arguments).json == (
        dllmc("generate", checkpoint, *arguments).json
    )


def test_a_configuration_may_come_from_a_file(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(CONFIGS["sampled"])
    by_file = dllmc("generate", artifact, *PROMPTS, "--config", path, "--json").json
    assert by_file == (
        dllmc("generate", artifact, *PROMPTS, "--config", CONFIGS["sampled"], "--json").json
    )


def test_temperature_and_seed_replace_those_of_the_configuration(
    dllmc: Callable, artifact: Path
) -> None:
    length = '{"stop": {"kind": "length"}}'
    replaced = dllmc(
        "generate", artifact, "a", "--config", length, "--temperature", 0.7, "--seed", 5, "--json"
    ).json
    assert (
        replaced == dllmc("generate", artifact, "a", "--config", CONFIGS["sampled"], "--json").json
    )
    other = dllmc(
        "generate", artifact, "a", "--config", length, "--temperature", 0.7, "--seed", 6, "--json"
    ).json
    assert other["tokens"] != replaced["tokens"]


def test_an_override_takes_the_decode_out_of_the_records_word(
    dllmc: Callable, artifact: Path
) -> None:
    ran = dllmc("generate", artifact, "a", "--temperature", 0.7)
    assert ran.status == 0
    assert "decoded with the configuration given" in ran.out
    assert "`--temperature` changes SAFE, which says nothing of this" in ran.out


def test_people_see_answer_evaluations_configuration_and_reason(
    dllmc: Callable, artifact: Path
) -> None:
    found = dllmc("generate", artifact, "sort: b a", "--json").json
    ran = dllmc("generate", artifact, "sort: b a")
    assert ran.status == 0
    assert "sort: b a" in ran.out
    assert " ".join(found["text"].split()) in " ".join(ran.out.split())
    assert f"{len(found['tokens'])} tokens in {found['nfe']} evaluations" in ran.out
    assert "decoded with SAFE, as no record applies: quota, cache none, blocks 32" in ran.out
    assert "no record is near" in ran.out


@pytest.mark.slow
def test_a_fresh_process_generates_from_the_artifact(dllmc: Callable, artifact: Path) -> None:
    command = [sys.executable, "-m", "dllmc.cli", "generate", str(artifact), "copy: a", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == dllmc("generate", artifact, "copy: a", "--json").json
