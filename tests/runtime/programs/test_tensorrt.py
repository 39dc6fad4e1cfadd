"""The TensorRT back end on stand-ins: there is no TensorRT and no GPU here."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lockstep.drawn import SHAPES, compiled_model

from dllmc.artifact import load_package, save_package
from dllmc.policies.config import SAFE, SPEED_BASELINE
from dllmc.runtime.build import with_engines
from dllmc.runtime.engine import Engine
from dllmc.runtime.programs import _build_tensorrt, tensorrt
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import ArtifactError, PlanError, StepPlan, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dllmc.artifact import Package

STANDIN = importlib.util.spec_from_file_location(
    "standin_tensorrt", f"{__file__.rpartition('/')[0]}/standin_tensorrt.py"
)
assert STANDIN is not None
assert STANDIN.loader is not None
standin = importlib.util.module_from_spec(STANDIN)
sys.modules["standin_tensorrt"] = standin
STANDIN.loader.exec_module(standin)

SHAPE = SHAPES[5]
REQUIRE_GPU = tensorrt.require_gpu
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
PLAN = StepPlan(batch=3, rows=7, head_rows=5, slots=11)


@pytest.fixture(scope="module")
def builder() -> Iterator[Any]:
    """torch-tensorrt's stand-in, with TensorRT's beside it and a CPU in place of a GPU."""
    made = standin.TorchTensorRT()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_tensorrt", made)
        patch.setitem(sys.modules, "tensorrt", standin.TensorRT(made))
        for module in (tensorrt, _build_tensorrt):
            patch.setattr(module, "require_gpu", lambda _: None)
        patch.setattr(tensorrt, "architecture_of", lambda _: "sm_90")
        patch.setattr(tensorrt, "current_stream", lambda _: 0)
        yield made


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def package(builder: Any, told: list[str]) -> Package:
    assert builder.built == []
    configs = [SAFE, SPEED_BASELINE]
    return with_engines(compiled_model(SHAPE).package, configs, tell=told.append)


def test_it_commits_what_eager_decoding_commits(package: Package) -> None:
    engine, eager = Engine(package), compiled_model(SHAPE).engine(backend="eager")
    assert engine.execution == "tensorrt"
    for config in (SAFE, SPEED_BASELINE):
        for prompts in (PROMPTS[:1], PROMPTS):
            out = engine.generate(prompts, config=config, max_new_tokens=16)
            expected = eager.generate(prompts, config=config, max_new_tokens=16)
            assert (out.tokens, out.nfe) == (expected.tokens, expected.nfe)


def test_an_artifact_keeps_engines(package: Package, tmp_path: Path) -> None:
    path = save_package(package, tmp_path / "trt.dllm")
    assert (path / "programs/denoise-greedy-limit-tokens.engine").read_bytes() == b"engine 0"
    loaded = load_package(path)
    assert loaded.engines is not None
    assert package.engines is not None
    assert loaded.engines.listing == package.engines.listing
    tokens = Engine(loaded).generate(PROMPTS, max_new_tokens=9, config=SAFE).tokens
    assert tokens == Engine(package).generate(PROMPTS, max_new_tokens=9, config=SAFE).tokens
    (path / "programs/denoise-greedy-limit-tokens.engine").write_bytes(b"engine 1")
    with pytest.raises(ArtifactError, match=r"denoise-greedy-limit-tokens\.engine"):
        load_package(path)


def test_what_torch_tensorrt_is_told(builder: Any, package: Package) -> None:
    program, takes, options = builder.built[0]
    # Or a bias is a causal mask, and a cache that is changed in place is not changed at all.
    assert options["attn_bias_is_causal"] is False
    assert "scaled_dot_product_attention" not in str(program.graph)
    assert options["require_full_compilation"] is True
    assert options["disable_tf32"] is True
    assert "copy_" not in str(program.graph)
    named = {take.name: take for take in takes}
    assert package.engines is not None
    (listed,) = package.engines.listing.programs
    assert list(named) == list(listed.takes)
    tokens, keys = named["tokens"], named["keys_0"]
    assert (tokens.min_shape, tokens.opt_shape, tokens.max_shape) == ((1, 1), (8, 32), (32, 48))
    assert (keys.min_shape, keys.max_shape) == ((1, 2, 2, 6), (32, 2, 49, 6))
    assert (tokens.dtype, keys.dtype) == (torch.int64, torch.float32)
    assert [give.sizes for give in listed.gives] == [
        *[("batch", "head_rows")] * 3,
        *[("batch", 2, "slots", 6)] * 2,
    ]


def test_an_operator_without_a_converter_is_named_before_anything_is_built(
    builder: Any, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(builder.built)
    monkeypatch.setattr(builder, "lacking", ("aten.argmax.default", "aten.amax.default"))
    with pytest.raises(PlanError, match=r"nodes convert; none for aten\.amax.*, aten\.argmax"):
        with_engines(package, [SAFE])
    assert len(builder.built) == count


def test_how_many_nodes_convert_is_told(package: Package, told: list[str]) -> None:
    assert package.engines is not None
    (line,) = (each for each in told if "convert" in each)
    converted, total = (int(word) for word in line.split() if word.isdecimal())
    assert converted == total > 30


def test_what_tensorrt_says_of_a_failure_is_passed_on(
    builder: Any, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "fails", "no tactic\nmore")
    with pytest.raises(PlanError, match=r"TensorRT cannot build plan `b1-.*: no tactic$"):
        with_engines(package, [SAFE])


def test_more_plans_are_added_to_those_that_are_there(builder: Any, package: Package) -> None:
    count = len(builder.built)
    entropy = SPEED_BASELINE.replace(commit={"kind": "entropy_bound"})
    with pytest.raises(PlanError, match=r"no TensorRT engine for plan .*\+entropy"):
        Engine(package).generate(PROMPTS, config=entropy, max_new_tokens=4)
    more = with_engines(package, [SAFE, entropy], add=True)
    assert len(builder.built) == count + 1
    eager = compiled_model(SHAPE).engine(backend="eager")
    found = Engine(more).generate(PROMPTS, config=entropy, max_new_tokens=16).tokens
    assert found == eager.generate(PROMPTS, config=entropy, max_new_tokens=16).tokens


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"architecture": "sm_80"}, "are for sm_80, and this GPU is sm_90"),
        ({"tensorrt": "10.1"}, "are of TensorRT 10.1, and this is 11.0.0"),
    ],
)
def test_engines_for_another_machine_are_refused(
    package: Package, change: dict[str, str], complaint: str
) -> None:
    assert package.engines is not None
    listing = package.engines.listing.model_copy(update=change)
    other = dataclasses.replace(package.engines, listing=listing)
    with pytest.raises(ArtifactError, match=complaint):
        Engine(dataclasses.replace(package, engines=other))


def test_sizes_outside_of_the_profile_are_refused(package: Package) -> None:
    with pytest.raises(PlanError, match="`batch`=33, and the engines of `drawn` take 1 to 32"):
        Engine(package).generate([[5]] * 33, max_new_tokens=4, config=SAFE, batch=33)


def test_an_input_that_is_not_the_plans_is_refused(package: Package) -> None:
    programs = Engine(package).programs
    inputs = example_inputs(programs.graph(PLAN), PLAN, torch.device("cpu"))
    with pytest.raises(PlanError, match="`tokens` holds -1"):
        programs.run(PLAN, inputs | {"tokens": inputs["tokens"] - 1})


def test_an_engine_that_cannot_be_read_is_refused(package: Package, tmp_path: Path) -> None:
    assert package.engines is not None
    bad = tmp_path / "bad.engine"
    bad.write_bytes(b"nothing")
    files = dict.fromkeys(package.engines.files, bad)
    engine = Engine(
        dataclasses.replace(package, engines=dataclasses.replace(package.engines, files=files))
    )
    with pytest.raises(ArtifactError, match=r"TensorRT 11\.0\.0 refuses"):
        engine.generate(PROMPTS, max_new_tokens=4, config=SAFE)


def test_without_the_packages_it_says_so(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(UsageError, match=r"pip install 'dllmc\[tensorrt\]'"):
        Engine(package)
    with pytest.raises(UsageError, match=r"pip install 'dllmc\[tensorrt\]'"):
        with_engines(package, [SAFE])


def test_without_a_gpu_or_engines_it_says_so(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "require_gpu", REQUIRE_GPU)
    monkeypatch.setattr(_build_tensorrt, "require_gpu", REQUIRE_GPU)
    with pytest.raises(UsageError, match="run on an NVIDIA GPU, and this is `cpu`"):
        Engine(package)
    with pytest.raises(UsageError, match="run on an NVIDIA GPU, and this is `cpu`"):
        with_engines(package, [SAFE])
    with pytest.raises(UsageError, match="holds no TensorRT engines"):
        compiled_model(SHAPE).engine(backend="tensorrt")
