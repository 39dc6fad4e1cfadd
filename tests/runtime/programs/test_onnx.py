"""One tiny model, exported to ONNX for greedy and sampled steps."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from lockstep.compare import Tally, run
from lockstep.drawn import SHAPES, Shape, batches, compiled_model, model_of

from dllmc.artifact import load_package, save_package
from dllmc.artifact.exports import layout_of
from dllmc.artifact.files import save_exports
from dllmc.compiler import compile_model
from dllmc.models import load_model
from dllmc.policies.config import SAFE, SPEED_BASELINE
from dllmc.runtime.build import with_exports, with_plans
from dllmc.runtime.engine import Engine
from dllmc.runtime.programs import OnnxPrograms
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import ArtifactError, PlanError, StepPlan, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dllmc.artifact import Package

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SHAPE = SHAPES[5]
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
SAMPLED = SPEED_BASELINE.replace(temperature=0.7, seed=3)
ENTROPY = SPEED_BASELINE.replace(commit={"kind": "entropy_bound"})
PLAN = StepPlan(batch=3, rows=7, head_rows=5, slots=11)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = with_exports(compiled_model(SHAPE).package, [SAFE, SAMPLED])
    return save_package(package, tmp_path_factory.mktemp("onnx") / "tiny.dllm")


@pytest.fixture(scope="module")
def package(artifact: Path) -> Package:
    return load_package(artifact)


@pytest.fixture
def engine(package: Package) -> Engine:
    return Engine(package)


def lockstep(engine: Engine, shape: Shape, cases: int, *, greedy: bool = False) -> None:
    total, model = Tally(), model_of(shape)

    @settings(
        max_examples=cases,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(requests=batches(shape, plain=True))
    def each(requests: Any) -> None:
        if greedy:
            requests = [
                dataclasses.replace(r, config=r.config.replace(temperature=0.0)) for r in requests
            ]
        total.add(run(engine, model.module, model.spec, requests))

    each()
    total.check()


def test_it_decides_as_the_reference_does(engine: Engine) -> None:
    assert engine.execution == "onnxruntime"
    lockstep(engine, SHAPE, 40)


PROGRAM = """
import sys
from dllmc.runtime.engine import Engine
engine = Engine.load(sys.argv[1])
print(engine.generate([[5, 6, 7], [9], [3, 3, 8, 2, 14]], max_new_tokens=9).tokens)
makers = ("onnx", "onnxscript", "torch.onnx", "torch._inductor", "dllmc.compiler", "dllmc.models")
print([name for name in makers if name in sys.modules])
"""


def test_decoding_takes_onnx_runtime_and_no_exporter(artifact: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(artifact)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    tokens, makers = ran.stdout.splitlines()
    eager = compiled_model(SHAPE).engine(backend="eager")
    assert tokens == str(eager.generate(PROMPTS, max_new_tokens=9).tokens)
    assert makers == "[]"


def test_weights_stand_in_the_artifacts_file_alone(artifact: Path, package: Package) -> None:
    model = onnx.load(artifact / "denoise-greedy-limit-tokens.onnx", load_external_data=False)
    layout = layout_of(artifact / "weights.safetensors")
    outside = [t for t in model.graph.initializer if t.external_data]
    assert len(outside) >= 5
    for tensor in outside:
        said = {entry.key: entry.value for entry in tensor.external_data}
        assert said["location"] == "weights.safetensors"
        assert (int(said["offset"]), int(said["length"])) == layout[tensor.name]
    assert package.exports is not None
    assert {t.name for t in outside} == set(package.exports.listing.programs[0].weights)
    inside = sum(len(t.raw_data) for t in model.graph.initializer)
    assert inside < 0.2 * (artifact / "weights.safetensors").stat().st_size


def test_any_onnx_runtime_opens_the_artifact(artifact: Path, package: Package) -> None:
    file = str(artifact / "denoise-greedy-limit-tokens.onnx")
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    eager = Engine(package, backend="eager").programs
    inputs = example_inputs(eager.graph(PLAN), PLAN, CPU)
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: inputs[name].numpy() for name in names})
    expected = eager.run(PLAN, inputs)
    for a, b in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[3], inputs["keys_0"].numpy(), rtol=1e-4, atol=1e-5)


def test_a_reader_of_the_graph_finds_names_with_a_meaning(artifact: Path) -> None:
    file = artifact / "denoise-greedy-limit-tokens.onnx"
    model = onnx.load(file, load_external_data=False)
    assert [value.name for value in model.graph.output] == [
        *("candidate_ids", "candidate_logits", "tail_mass"),
        *("present_keys_0", "present_values_0"),
    ]
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes["tokens"] == ["batch", "rows"]
    assert sizes["candidate_ids"] == ["batch", "head_rows"]
    assert sizes["present_keys_0"] == sizes["keys_0"] == ["batch", 2, "slots", 6]
    attention = [node.name for node in model.graph.node if node.op_type == "Attention"]
    assert attention == ["model.transformer.blocks.0/Attention"]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert b"site-packages" not in file.read_bytes()
    assert b".py" not in file.read_bytes()


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(package: Package) -> None:
    again = with_exports(compiled_model(SHAPE).package, [SAFE])
    assert package.exports is not None
    assert again.exports is not None
    for name, content in again.exports.files.items():
        first = onnx.load_model_from_string(package.exports.files[name])
        second = onnx.load_model_from_string(content)
        for model in (first, second):
            for tensor in model.graph.initializer:
                del tensor.external_data[:]
        # Weights of a loaded artifact have underscores for dots; nothing else may differ.
        assert str(second.graph.node) == str(first.graph.node)


@pytest.mark.parametrize("in_place", [True, False])
def test_caches_are_written_where_they_are_or_copied_back(
    package: Package, *, in_place: bool
) -> None:
    eager, programs = Engine(package, backend="eager").programs, OnnxPrograms(package, CPU)
    inputs = example_inputs(eager.graph(PLAN), PLAN, CPU)
    inputs["tokens"] += torch.arange(7)
    programs.run(PLAN, inputs)
    (session,) = programs._sessions.values()
    assert session.in_place
    session._in_place = in_place
    ours = {name: tensor.clone() for name, tensor in inputs.items()}
    ours["keys_0"].normal_()
    theirs = {name: tensor.clone() for name, tensor in ours.items()}
    for a, b in zip(programs.run(PLAN, ours), eager.run(PLAN, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name in ("keys_0", "values_0"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_a_runtime_that_does_not_write_in_place_is_noticed(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        """A session whose results go to the buffers given only where they are not inputs."""

        def __init__(self, session: Any) -> None:
            self._session = session

        def io_binding(self) -> Any:
            return self._session.io_binding()

        def run_with_iobinding(self, binding: Any) -> None:
            ours = binding.get_outputs()
            before = [value.numpy().copy() for value in ours]
            self._session.run_with_iobinding(binding)
            if all(np.isfinite(b).all() for b in before) and any(b.any() for b in before[3:]):
                for value, old in zip(ours[3:], before[3:], strict=True):
                    value.update_inplace(old)

    programs = OnnxPrograms(package, CPU)
    loaded = programs._loaded
    monkeypatch.setattr(programs, "_loaded", lambda program: Elsewhere(loaded(program)))
    inputs = example_inputs(programs.graph(PLAN), PLAN, CPU)
    programs.run(PLAN, inputs)
    (session,) = programs._sessions.values()
    assert not session.in_place


def test_threads_of_one_engine_decode_as_alone(package: Package) -> None:
    engine, jobs = Engine(package), PROMPTS * 8
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda p: engine.generate(p, max_new_tokens=9).tokens, jobs))
    alone = compiled_model(SHAPE).engine(backend="eager")
    assert together == [alone.generate(p, max_new_tokens=9).tokens for p in jobs]


def test_what_there_is_no_program_for_is_named_with_how_to_add_it(
    package: Package, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=r"no ONNX program for plan `b1-.*\+entropy") as refused:
        Engine(package).generate(PROMPTS[0], config=ENTROPY, max_new_tokens=4)
    assert "dllmc compile ARTIFACT --add-plan CONFIG" in str(refused.value)
    more = save_package(with_exports(package, [ENTROPY], add=True), tmp_path / "more.dllm")
    eager = compiled_model(SHAPE).engine(backend="eager")
    for config in (ENTROPY, SAFE):
        found = Engine.load(more).generate(PROMPTS, config=config, max_new_tokens=9).tokens
        assert found == eager.generate(PROMPTS, config=config, max_new_tokens=9).tokens


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("tokens", lambda t: t.int(), r"`tokens` is torch.int32 \[3, 7\]"),
        ("slots", lambda t: t[:2], r"`slots` is torch.int64 \[2, 7\]"),
        ("keys_0", lambda t: t[:, :, :8].clone(), r"`keys_0` is .* takes .*, 12, 6\]"),
        ("keys_0", lambda t: t.mT.contiguous().mT, r"`keys_0` has strides"),
        ("tokens", lambda t: t - 1, "`tokens` holds -1, and must hold 0 to 23"),
        ("slots", lambda t: t + 9, "`slots` holds 15, and must hold 0 to 11"),
    ],
)
def test_an_input_that_is_not_the_plans_is_refused(
    engine: Engine, name: str, change: Callable[[torch.Tensor], torch.Tensor], complaint: str
) -> None:
    inputs = example_inputs(engine.programs.graph(PLAN), PLAN, CPU)
    with pytest.raises(PlanError, match=complaint):
        engine.programs.run(PLAN, inputs | {name: change(inputs[name])})


@pytest.mark.parametrize("ending", [".onnx", "onnx.json"])
def test_a_damaged_file_is_named_before_it_is_loaded(
    artifact: Path, tmp_path: Path, ending: str
) -> None:
    folder = tmp_path / "copy.dllm"
    subprocess.run(["cp", "-r", artifact, folder], check=True)
    (damaged, *_) = (f for f in sorted(folder.rglob("*")) if f.name.endswith(ending))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ArtifactError, match=damaged.name):
        Engine.load(folder)


def test_a_listing_that_makes_no_sense_is_refused(package: Package) -> None:
    assert package.exports is not None
    listing = json.loads(package.exports.listing.model_dump_json())
    for program in listing["programs"]:
        program["weights"] = dict.fromkeys(program["weights"], "nothing")
    bad = dataclasses.replace(
        package.exports, listing=package.exports.listing.model_validate(listing)
    )
    engine = Engine(dataclasses.replace(package, exports=bad))
    with pytest.raises(ArtifactError, match="reads the weight `nothing`"):
        engine.generate(PROMPTS[0], max_new_tokens=4)


def test_what_is_missing_is_said_with_how_to_get_it(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--backend onnxruntime"):
        compiled_model(SHAPE).engine(backend="onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'dllmc\[onnx\]'"):
        Engine(package)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"`onnxscript`.*pip install 'dllmc\[onnx\]'"):
        with_exports(package, [SAFE])


def test_what_onnx_runtime_cannot_run_is_refused_when_it_is_compiled() -> None:
    compiled = compile_model(
        model_of(SHAPE), engine_of=Engine, backend="onnxruntime", precision="bfloat16"
    )
    with pytest.raises(ArtifactError, match=r"refuses .*; compile in float32"):
        with_plans(compiled.package, [SAFE])


def test_sizes_can_be_fixed(tmp_path: Path) -> None:
    compiled = compiled_model(SHAPE)
    made = with_exports(compiled.package, [SAFE], fixed={"batch": 1, "rows": 5, "slots": 12})
    save_exports(made, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "denoise-greedy-limit-tokens.onnx")
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes["tokens"] == [1, 5]
    assert shapes["head_rows"] == [1, "head_rows"]
    assert shapes["keys_0"] == [1, 2, 12, 6]
    plan = StepPlan(batch=1, rows=5, head_rows=5, slots=11)
    eager = compiled.engine(backend="eager").programs
    inputs = example_inputs(eager.graph(plan), plan, CPU)
    found = session.run(["candidate_ids"], {name: inputs[name].numpy() for name in shapes})
    assert found[0].tolist() == eager.run(plan, inputs)[0].tolist()
    said = json.loads((tmp_path / "programs.json").read_text())
    assert said["programs"][0]["takes"]["tokens"]["sizes"] == [1, 5]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"opset": 20}, "`opset`=20 is not supported; use 23 or 24"),
        ({"fixed": {"bath": 1}}, "no size `bath`; did you mean `batch`"),
        ({"fixed": {"slots": 1}}, "`slots`=1 is too small"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        with_exports(compiled_model(SHAPE).package, [SAFE], **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"score": {"kind": "margin"}, "commit": {"kind": "quota"}},
        {"commit": {"kind": "local_leap"}},
        {"score": {"kind": "credit"}},
        {"cache": {"kind": "sparse"}},
        {"cache": {"kind": "dkv"}},
        {"belief": {"kind": "lrd"}},
        {"verify": {"kind": "self_speculation", "form": "tree"}},
    ],
    ids=str,
)
def test_whatever_a_policy_asks_of_a_step_is_exported(config: dict[str, Any]) -> None:
    compiled = compiled_model(SHAPES[1])
    chosen = SPEED_BASELINE.replace(**config)
    engine = Engine(with_exports(compiled.package, [chosen]))
    eager = compiled.engine(backend="eager")
    for prompts in (PROMPTS[:1], PROMPTS):
        out = engine.generate(prompts, config=chosen, max_new_tokens=16)
        expected = eager.generate(prompts, config=chosen, max_new_tokens=16)
        assert (out.tokens, out.nfe) == (expected.tokens, expected.nfe)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounded_weights_are_read_as_they_are_stored(precision: str, tmp_path: Path) -> None:
    compiled = compile_model(
        model_of(SHAPES[1]), engine_of=Engine, backend="eager", precision=precision
    )
    path = save_package(with_exports(compiled.package, [SAFE]), tmp_path / "rounded.dllm")
    found = Engine.load(path).generate(PROMPTS, config=SAFE, max_new_tokens=16)
    eager = compiled.engine().generate(PROMPTS, config=SAFE, max_new_tokens=16)
    assert (found.tokens, found.nfe) == (eager.tokens, eager.nfe)
    model = onnx.load(path / "denoise-greedy-limit-tokens.onnx", load_external_data=False)
    kinds = {t.data_type for t in model.graph.initializer if t.external_data}
    assert (onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.UINT8) in kinds


@pytest.mark.slow
@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_every_shape_decides_as_the_reference_does(number: int, opset: int) -> None:
    configs, compiled = [SAFE], compiled_model(SHAPES[number])
    if compiled.package.spec.attention == "block_causal":
        configs.append(SAFE.replace(cache={"kind": "block_causal", "append": "apart"}))
    package = with_exports(compiled.package, configs, opset=opset)
    lockstep(Engine(package), SHAPES[number], 15, greedy=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("dream-tiny", "fast-dllm-v2-tiny", "llada-moe-tiny", "llada2-tiny"),
        *("sdar-tiny", "sdar-moe-tiny"),
    ],
)
def test_other_architectures_decode_as_eagerly(name: str) -> None:
    compiled = compile_model(load_model(f"random:{name}"), engine_of=Engine, backend="eager")
    engine, eager = Engine(with_exports(compiled.package, [SPEED_BASELINE])), compiled.engine()
    for prompts in ([[5, 6, 7]], [[5, 6, 7], [9, 8, 7, 6]]):
        out = engine.generate(prompts, config=SPEED_BASELINE, max_new_tokens=32)
        expected = eager.generate(prompts, config=SPEED_BASELINE, max_new_tokens=32)
        assert (out.tokens, out.nfe) == (expected.tokens, expected.nfe)
