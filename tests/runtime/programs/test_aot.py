"""One tiny model, compiled ahead of time for greedy steps."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from lockstep.compare import Tally, run
from lockstep.drawn import SHAPES, Shape, batches, compiled_model, model_of

from dllmc.artifact import load_package, save_package
from dllmc.artifact.binaries import Target
from dllmc.compiler import compile_model
from dllmc.models import load_model
from dllmc.policies.config import SAFE, SPEED_BASELINE
from dllmc.runtime import target as targets
from dllmc.runtime.build import plans_of, rebuilt, with_programs
from dllmc.runtime.engine import Engine
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import ArtifactError, ConfigError, PlanError, StepPlan, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dllmc.artifact import Package

# A single layer is one piece, and a layer more would be three.
SHAPE, LAYERED = SHAPES[5], SHAPES[2]
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
ENTROPY = SPEED_BASELINE.replace(commit={"kind": "entropy_bound"})
PLAN = StepPlan(batch=3, rows=7, head_rows=5, slots=11)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = with_programs(compiled_model(SHAPE).package, [SAFE, SPEED_BASELINE])
    return save_package(package, tmp_path_factory.mktemp("aot") / "tiny.dllm")


@pytest.fixture(scope="module")
def package(artifact: Path) -> Package:
    return load_package(artifact)


@pytest.fixture
def engine(package: Package) -> Engine:
    return Engine(package)


def lockstep(engine: Engine, shape: Shape, cases: int) -> None:
    total, model = Tally(), model_of(shape)

    @settings(
        max_examples=cases,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(requests=batches(shape, plain=True))
    def each(requests: Any) -> None:
        greedy = [
            dataclasses.replace(r, config=r.config.replace(temperature=0.0)) for r in requests
        ]
        total.add(run(engine, model.module, model.spec, greedy))

    each()
    total.check()


def test_it_decides_as_the_reference_does(engine: Engine) -> None:
    assert engine.execution == "aot"
    lockstep(engine, SHAPE, 25)


PROGRAM = """
import sys
from dllmc.runtime.engine import Engine
engine = Engine.load(sys.argv[1])
print(engine.generate([[5, 6, 7], [9], [3, 3, 8, 2, 14]], max_new_tokens=9).tokens)
compilers = ("torch._inductor", "torch._dynamo", "triton", "dllmc.compiler", "dllmc.models")
print([name for name in compilers if name in sys.modules])
"""


def test_a_machine_without_a_compiler_runs_it(artifact: Path, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing")
    environment = {**os.environ, "PATH": nothing, "CC": nothing, "CXX": nothing}
    environment["TORCHINDUCTOR_CACHE_DIR"] = nothing
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(artifact)],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    tokens, compilers = ran.stdout.splitlines()
    eager = compiled_model(SHAPE).engine(backend="eager")
    assert tokens == str(eager.generate(PROMPTS, max_new_tokens=9).tokens)
    assert compilers == "[]"


def test_all_programs_read_one_copy_of_the_weights(package: Package) -> None:
    engine = Engine(package)
    engine.generate(PROMPTS, max_new_tokens=4)
    engine.generate(PROMPTS[0], max_new_tokens=4)
    linked = engine.programs._linked.values()  # type: ignore[attr-defined]
    read = [
        {w.data_ptr() for _, weights, *_ in program._steps for w in weights if w is not None}
        for program in linked
    ]
    held = {w.data_ptr() for graph in package.graphs.values() for w in graph.buffers()}
    assert len(read) == 2
    assert read[0] == read[1] <= held


def test_threads_of_one_engine_decode_as_alone(package: Package) -> None:
    engine, jobs = Engine(package), PROMPTS * 8
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda p: engine.generate(p, max_new_tokens=9).tokens, jobs))
    alone = compiled_model(SHAPE).engine(backend="eager")
    assert together == [alone.generate(p, max_new_tokens=9).tokens for p in jobs]


def test_what_there_is_no_program_for_is_named_with_how_to_add_it(engine: Engine) -> None:
    with pytest.raises(PlanError, match=r"no ahead-of-time program for plan `b1-.*\+entropy") as e:
        engine.generate(PROMPTS[0], config=ENTROPY, max_new_tokens=4)
    assert "dllmc compile ARTIFACT --add-plan CONFIG" in str(e.value)
    assert engine.generate(PROMPTS[0], max_new_tokens=4).tokens


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("tokens", lambda t: t.int(), r"`tokens` is torch.int32 \[3, 7\]"),
        ("tokens", lambda t: t[:, :6], r"`tokens` is torch.int64 \[3, 6\]"),
        ("slots", lambda t: t[:2], r"`slots` is torch.int64 \[2, 7\]"),
        ("keys_0", lambda t: t[:, :, :8].clone(), r"`keys_0` is .* takes .*, 12, 6\]"),
        ("keys_0", lambda t: t.mT.contiguous().mT, r"`keys_0` has strides"),
    ],
)
def test_an_input_that_is_not_the_plans_is_refused(
    engine: Engine, name: str, change: Callable[[torch.Tensor], torch.Tensor], complaint: str
) -> None:
    inputs = example_inputs(engine.programs.graph(PLAN), PLAN, torch.device("cpu"))
    assert len(engine.programs.run(PLAN, inputs)) == 3
    with pytest.raises(PlanError, match=complaint):
        engine.programs.run(PLAN, inputs | {name: change(inputs[name])})


@pytest.mark.parametrize(
    ("name", "value", "last"),
    [
        ("tokens", 24, 23),
        ("tokens", -1, 23),
        ("positions", 48, 47),
        ("slots", 12, 11),
        ("head_rows", 7, 6),
    ],
)
def test_an_index_out_of_range_is_an_error_and_no_crash(
    engine: Engine, name: str, value: int, last: int
) -> None:
    inputs = example_inputs(engine.programs.graph(PLAN), PLAN, torch.device("cpu"))
    inputs[name][1, 2] = value
    with pytest.raises(PlanError, match=f"`{name}` holds {value}, and must hold 0 to {last}"):
        engine.programs.run(PLAN, inputs)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"torch": "2.3"}, "compiled with torch 2.3, and this is torch"),
        ({"machine": "riscv64"}, "are for `riscv64`, and this machine is"),
        ({"features": ("avx", "avx1024")}, "this processor lacks avx1024"),
        ({"device": "cuda"}, "run on `cuda`, and the engine on `cpu`"),
    ],
)
def test_programs_for_another_machine_are_refused_before_they_run(
    package: Package, change: dict[str, Any], complaint: str
) -> None:
    assert package.binaries is not None
    listing = package.binaries.listing
    target = Target.model_validate(listing.target.model_dump() | change)
    binaries = dataclasses.replace(
        package.binaries, listing=listing.model_copy(update={"target": target})
    )
    with pytest.raises(ArtifactError, match=complaint) as refused:
        Engine(dataclasses.replace(package, binaries=binaries))
    assert "dllmc rebuild" in str(refused.value)
    assert Engine(dataclasses.replace(package, binaries=binaries), backend="eager")


def test_the_baseline_is_what_every_v3_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    found = targets.target_for("x86-64-v3", cpu)
    assert "avx2" in found.features
    assert not any("avx512" in feature for feature in found.features)
    monkeypatch.setattr(targets, "processor_features", lambda: {"avx2", "avx512f", "tsc"})
    assert targets.target_for("native", cpu).features == ("avx2", "avx512f")
    with pytest.raises(UsageError, match="`target`='x86-64-v4' is unknown; did you mean"):
        targets.target_for("x86-64-v4", cpu)
    monkeypatch.setattr(targets.platform, "machine", lambda: "aarch64")
    with pytest.raises(UsageError, match="not for `aarch64`"):
        targets.target_for("x86-64-v3", cpu)


def test_a_package_without_programs_says_how_to_make_them() -> None:
    with pytest.raises(UsageError, match="--backend aot"):
        compiled_model(SHAPE).engine(backend="aot")


@pytest.mark.parametrize("ending", [".so", "aot.json"])
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


def test_a_listing_that_makes_no_sense_is_refused(artifact: Path, tmp_path: Path) -> None:
    package = load_package(artifact)
    assert package.binaries is not None
    listing = json.loads(package.binaries.listing.model_dump_json())
    listing["programs"][0]["calls"][0]["takes"][0] = "weight:nothing"
    bad = dataclasses.replace(
        package.binaries, listing=package.binaries.listing.model_validate(listing)
    )
    folder = save_package(dataclasses.replace(package, binaries=bad), tmp_path / "bad.dllm")
    with pytest.raises(ArtifactError, match="reads the weight `nothing`"):
        Engine.load(folder).generate(PROMPTS[0], max_new_tokens=4)


def test_the_plans_are_those_that_decoding_asks_for() -> None:
    package = compiled_model(SHAPE).package
    kinds = [(p.statistics, p.batch) for p in plans_of(package, [SAFE, ENTROPY])]
    assert kinds == [("greedy", 1), ("greedy", 2), ("greedy+entropy", 1), ("greedy+entropy", 2)]


def test_a_way_to_decode_that_does_not_fit_the_model_is_refused() -> None:
    config = SAFE.replace(
        schedule={"kind": "blocks", "block_length": 5}, commit={"kind": "quota", "steps": 3}
    )
    with pytest.raises(ConfigError):
        plans_of(compiled_model(SHAPE).package, [config])


@pytest.mark.slow
def test_layers_that_are_the_same_are_one_piece_and_shared_by_programs() -> None:
    package = with_programs(compiled_model(LAYERED).package, [SAFE])
    assert package.binaries is not None
    assert len(package.binaries.listing.pieces) == 6
    lockstep(Engine(package), LAYERED, 25)
    more = with_programs(package, [SAFE, ENTROPY], add=True)
    assert more.binaries is not None
    assert len(more.binaries.listing.pieces) == 8
    assert [p.statistics for p in more.binaries.listing.programs] == [
        *("greedy", "greedy"),
        *("greedy+entropy", "greedy+entropy"),
    ]


@pytest.mark.slow
def test_programs_are_rebuilt_from_the_artifact_alone(artifact: Path, tmp_path: Path) -> None:
    before = Engine.load(artifact).generate(PROMPTS, max_new_tokens=9)
    made = rebuilt(load_package(artifact), target="native")
    again = Engine.load(save_package(made, tmp_path / "native.dllm"))
    assert again.generate(PROMPTS, max_new_tokens=9).tokens == before.tokens
    assert made.binaries is not None
    assert made.binaries.listing.target.isa == "native"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["dream-tiny", "fast-dllm-v2-tiny", "llada2-tiny", "sdar-moe-tiny"]
)
def test_other_architectures_decode_as_eagerly(name: str, tmp_path: Path) -> None:
    compiled = compile_model(load_model(f"random:{name}"), engine_of=Engine, backend="eager")
    package = with_programs(compiled.package, [SPEED_BASELINE])
    engine = Engine.load(save_package(package, tmp_path / "other.dllm"))
    eager = compiled.engine()
    for prompts in ([[5, 6, 7]], [[5, 6, 7], [9, 8, 7, 6]]):
        out = engine.generate(prompts, config=SPEED_BASELINE, max_new_tokens=32)
        expected = eager.generate(prompts, config=SPEED_BASELINE, max_new_tokens=32)
        assert (out.tokens, out.nfe) == (expected.tokens, expected.nfe)
