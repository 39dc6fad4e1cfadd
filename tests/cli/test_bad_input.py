from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUOTA = (
    '{"schedule": {"kind": "blocks", "block_length": 8}, "commit": {"kind": "quota", "steps": 5}}'
)
# The arguments, the exit status, and what the one line must say: the value and the remedy.
CASES = {
    "unknown model": ("compile nope -o OUT", 2, ["`nope`", "checkpoint folder's path"]),
    "model with a typo": ("generate embeded a", 2, ["`embeded`", "did you mean `embedded`?"]),
    "no place for the artifact": ("compile embedded", 2, ["`--output` is missing", "-o"]),
    "unknown back end to compile for": (
        "compile embedded -o OUT --backend aott",
        2,
        ["'aott'", "did you mean `aot`?"],
    ),
    "plans that nothing is compiled for": (
        "compile embedded -o OUT --plans SAFE",
        2,
        ["`--plans` means nothing where `--backend` is inductor"],
    ),
    "plans of `auto`": (
        "compile embedded -o OUT --backend aot --plans auto",
        2,
        ["`auto` says no plans", "leave `--plans` out"],
    ),
    "a target with a typo": (
        "compile ART --add-plan SAFE --target x86",
        2,
        ["`target`='x86'", "x86-64-v3"],
    ),
    "a back end beside --add-plan": (
        "compile ART --add-plan SAFE --backend aot",
        2,
        ["`--backend` means nothing", "leave it out"],
    ),
    "programs of none rebuilt": ("rebuild ART", 2, ["no ahead-of-time programs", "--add-plan"]),
    "a precision with a typo": (
        "compile embedded -o OUT --precision int7",
        2,
        ["`precision`='int7'", "did you mean `int8`?"],
    ),
    "a reference of what was not rounded": (
        "tune ART --task copy --reference ART",
        1,
        ["`reference` is for rounded weights", "leave it out"],
    ),
    "TensorRT without a GPU": (
        "compile embedded -o OUT --backend tensorrt",
        2,
        ["on an NVIDIA GPU, and this is `cpu`", "--device cuda"],
    ),
    "TensorRT engines that are not there": (
        "generate ART a --backend tensorrt",
        2,
        ["no TensorRT engines", "--backend tensorrt"],
    ),
    "an ONNX export of nothing": ("export-onnx nope -o OUT", 2, ["`nope`", "checkpoint folder"]),
    "an opset without attention": (
        "export-onnx ART -o OUT --plans SAFE --opset 20",
        2,
        ["`opset`=20", "use 23 or 24"],
    ),
    "a size with a typo": (
        "export-onnx ART -o OUT --plans SAFE --fix bath=1",
        2,
        ["`bath`", "did you mean `batch`?"],
    ),
    "a size without a number": (
        "export-onnx ART -o OUT --fix batch",
        2,
        ["'batch'", "--fix batch=1"],
    ),
    "an export over something else": (
        "export-onnx ART -o MODEL",
        1,
        ["is no artifact", "choose another path"],
    ),
    "ONNX programs that are not there": (
        "generate ART a --backend onnxruntime",
        2,
        ["no ONNX programs", "--backend onnxruntime"],
    ),
    "a target for ONNX": (
        "compile embedded -o OUT --backend onnxruntime --target native",
        2,
        ["`--target` means nothing where `--backend` is onnxruntime"],
    ),
    "programs that are not there": ("generate ART a --backend aot", 2, ["--backend aot"]),
    "unknown artifact": ("generate nope.dllm a", 1, ["`nope.dllm`", "`dllmc compile` makes one"]),
    "task with a typo": ("generate ART a --task copi", 2, ["`copi`", "did you mean `copy`?"]),
    "uneven quota": (
        ["generate", "ART", "sort: a", "--config", QUOTA],
        2,
        ["`commit.steps`=5", "4 blocks", "use 4 or 8"],
    ),
    "threshold of 1.5": (
        [
            "generate",
            "ART",
            "a",
            "--config",
            '{"commit": {"kind": "threshold", "threshold": 1.5}}',
        ],
        2,
        ["`commit.threshold`=1.5", "less than or equal to 1"],
    ),
    "kind with a typo": (
        ["generate", "ART", "a", "--config", '{"cache": {"kind": "dul"}}'],
        2,
        ["'dul'", "did you mean `dual`?"],
    ),
    "config that is no file": ("generate ART a --config nope.json", 2, ["`nope.json`", "give"]),
    "config that is not JSON": ("generate ART a --config {", 2, ["is not JSON"]),
    "empty prompt": (["generate", "ART", ""], 2, ["empty", "give at least one token"]),
    "empty ids": (["generate", "ART", "--token-ids", ""], 2, ["empty", "at least one token"]),
    "no prompt": ("generate ART", 2, ["there is no prompt", "--token-ids 5,17,3"]),
    "ids that are none": ("generate ART --token-ids 5,x", 2, ["'5,x'", "write 5,17,3"]),
    "prompt beyond its slots": (
        ["generate", "ART", " ".join("a" * 40)],
        2,
        ["40 tokens", "32 prompt slots", "shorten it"],
    ),
    "response beyond the model": (
        ["generate", "ART", "a", "--max-new-tokens", "33"],
        2,
        ["`max_new_tokens`=33", "maximum of 64", "at most 32"],
    ),
    "mask in the ids": (
        "generate ART --token-ids 5,1,3",
        2,
        ["mask token 1 at position 1", "remove it"],
    ),
    "mask in the text": (["generate", "ART", "a <|mdm_mask|>"], 2, ["the mask token 1"]),
    "unknown letter": (["generate", "ART", "copy: é"], 2, ["'é'", "leave it out"]),
    "a device that is not there": (
        "generate ART a --device cuda:99",
        2,
        ["device `cuda:99` cannot be used", "choose cpu"],
    ),
    "a device for the reference": (
        "generate embedded a --engine reference --device cpu",
        2,
        ["`--device`='cpu' is the runtime's", "leave it out"],
    ),
    "memory that is no amount": (
        "tune ART --task copy --max-memory 2apples",
        1,
        ["`max_memory`='2apples'", "512MiB or 2GiB"],
    ),
    "compile time that is none": (
        "tune ART --task copy --max-compile soon",
        1,
        ["`max_compile`='soon'", "write seconds, or 90s or 5m"],
    ),
    "a batch that is none": (
        "tune ART --task copy --space batch=8,many",
        1,
        ["batch='many'", "no number of prompts"],
    ),
    "unknown back end": ("generate ART a --backend indctor", 2, ["'indctor'", "`inductor`?"]),
    "unknown engine": ("generate ART a --engine refrence", 2, ["'refrence'", "`reference`?"]),
    "unknown dtype": ("compile MODEL -o OUT --dtype floot32", 2, ["'floot32'", "`float32`?"]),
    "artifact for the reference": (
        "generate ART a --engine reference",
        2,
        ["is an artifact", "compiled from"],
    ),
    "graph that an artifact lacks": ("explain ART --graph before", 2, ["give the model"]),
    "two prompts to trace": ("trace ART a --token-ids 5", 2, ["not both"]),
    "no rounds": ("bench ART --rounds 0", 2, ["`--rounds`=0", "at least 1"]),
    "output in the way": ("compile MODEL -o MODEL", 1, ["is no artifact", "another path"]),
    "records into a model": (
        "tune MODEL --task copy --into-artifact",
        2,
        ["needs an artifact", "compile it"],
    ),
    "second task with a typo": (
        "tune ART --task copy --task srot",
        2,
        ["`srot`", "did you mean `sort`?"],
    ),
    "no margin": ("tune ART --task copy --margin 0", 1, ["`margin`=0.0", "0.02 allows"]),
    "limit without a front": ("tune ART --task copy --limit 0.1", 1, ["`limit`=0.1", "--pareto"]),
    "limit under the margin": (
        "tune ART --task copy --pareto --limit 0.01",
        1,
        ["`limit`=0.01", "at least the margin of 0.02"],
    ),
    "budget without a unit": ("tune ART --task copy --budget 9x", 1, ["'9x'", "90s"]),
    "space without a value": (
        "tune ART --task copy --space commit",
        2,
        ["'commit'", "write commit=threshold,quota"],
    ),
    "space that is not": ("tune ART --task copy --space comit=quota", 1, ["`comit`", "commit"]),
    "unknown record": ("db show 123", 1, ["`123`", "there are none"]),
    "unknown command": ("genrate ART a", 2, ["`genrate`", "did you mean `generate`?"]),
    "unknown option": ("generate ART a --confg auto", 2, ["--confg", "--config"]),
    "missing argument": ("generate", 2, ["ART"]),
}


@pytest.mark.parametrize("case", CASES)
def test_is_refused_in_one_line_and_changes_no_file(
    case: str, dllmc: Callable, hashes: Callable, checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    arguments, status, said = CASES[case]
    paths = {"ART": artifact, "MODEL": checkpoint, "OUT": tmp_path / "out.dllm"}
    before = hashes(artifact, checkpoint, tmp_path)
    words = arguments.split() if isinstance(arguments, str) else arguments
    ran = dllmc(*(paths.get(word, word) for word in words))
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert not [text for text in said if text not in ran.err], ran.err
    assert hashes(artifact, checkpoint, tmp_path) == before


@pytest.fixture
def refused(dllmc: Callable, hashes: Callable, tmp_path: Path) -> Callable[..., str]:
    """Run what must fail with status 1 and change nothing; the line that it says."""

    def run(*arguments: object) -> str:
        before = hashes(tmp_path)
        ran = dllmc(*arguments)
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1), ran
        assert hashes(tmp_path) == before
        return ran.err

    return run


def test_an_artifact_of_another_version_is_refused(
    refused: Callable[..., str], artifact: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(artifact, tmp_path / "other.dllm")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    said = refused("generate", other, "a")
    assert f"`{other}` has artifact format 99" in said
    assert "compile again" in said


def test_an_artifact_whose_weights_changed_is_refused(
    refused: Callable[..., str], artifact: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(artifact, tmp_path / "other.dllm")
    weights = other / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    said = refused("generate", other, "a")
    assert str(weights) in said
    assert "compile again" in said


def test_a_corrupted_checkpoint_is_refused(
    refused: Callable[..., str], checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    said = refused("compile", other, "-o", tmp_path / "out.dllm")
    assert str(weights) in said
    assert "download it again" in said


@pytest.mark.parametrize("command", [("db", "list"), ("db", "verify"), ("generate", "ART", "a")])
def test_a_database_of_a_newer_version_is_refused(
    refused: Callable[..., str], artifact: Path, own_database: Path, command: tuple[str, ...]
) -> None:
    own_database.mkdir()
    manifest = {"format": "dllmc tuning database", "version": 99}
    (own_database / "manifest.json").write_text(json.dumps(manifest))
    said = refused(*(artifact if word == "ART" else word for word in command))
    assert f"{own_database} is of version 99" in said
    assert "update dllmc" in said


def test_a_broken_configuration_file_is_named(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"temprature": 1}')
    ran = dllmc("generate", artifact, "a", "--config", path)
    assert ran.status == 2
    assert ran.err == f"error: {path}: `temprature` is not a known field\n"
