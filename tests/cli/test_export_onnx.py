from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import dllmc as package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.slow
def test_an_export_is_a_folder_that_any_onnx_runtime_opens(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "steps"
    ran = dllmc("export-onnx", artifact, "-o", folder, "--plans", "SAFE", "--opset", "24")
    assert ran.status == 0, ran.err
    name = "denoise-greedy-limit-tokens.onnx"
    assert name in ran.out
    assert f"wrote {folder}: opset 24" in ran.out
    names = sorted(file.name for file in folder.iterdir())
    assert names == [name, "programs.json", "weights.safetensors"]
    session = onnxruntime.InferenceSession(folder / name)
    said = json.loads((folder / "programs.json").read_text())["programs"][0]
    assert [value.name for value in session.get_inputs()] == list(said["takes"])
    assert [value.name for value in session.get_outputs()] == list(said["gives"])


@pytest.mark.slow
def test_an_artifact_with_onnx_programs_decodes_with_them_and_takes_more(
    dllmc: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.dllm"
    made = ("compile", checkpoint, "-o", path, "--backend", "onnxruntime", "--plans", "SAFE")
    assert "holds ONNX models" in dllmc(*made).err
    entropy = '{"commit": {"kind": "entropy_bound"}}'
    refused = dllmc("generate", path, "--token-ids", "5,6", "--config", entropy)
    assert refused.status == 2
    assert "--add-plan" in refused.err
    assert "2 programs, of 1 before" in dllmc("compile", path, "--add-plan", entropy).out
    for config in ("SAFE", entropy):
        words = ("generate", path, "--token-ids", "5,6", "--config", config, "--json")
        assert dllmc(*words).json["tokens"] == dllmc(*words, "--backend", "eager").json["tokens"]
    assert package.load(path).execution == "onnxruntime"
    shown = dllmc("inspect", path).out
    assert "opset 23, for any ONNX runtime" in shown
    assert "denoise-greedy+entropy-limit-tokens.onnx" in shown
