"""A package runs where it is put, whatever it was compiled for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from lockstep.compare import Request, Tally, run
from lockstep.drawn import SHAPES, Shape, batches, compiled_model, model_of

import dllmc
from dllmc.artifact import Package, weights_of
from dllmc.policies.config import DecodingConfig
from dllmc.runtime.placement import device_of, lowered_for, placed
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from pathlib import Path

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]


def implementations(package: Package) -> set[str]:
    return {
        str(node.target)
        for graph in package.graphs.values()
        for node in graph.graph.nodes
        if getattr(node.target, "namespace", "") == "dllmc"
    }


def test_where_it_is_already_it_is_the_same() -> None:
    package = compiled_model(SHAPES[0]).package
    assert device_of(package) == CPU
    assert placed(package, CPU) is package


def test_every_operator_is_the_best_of_the_new_device() -> None:
    given = {"lower_operators": {"implementations": {}}}
    plain = dllmc.compile(model_of(SHAPES[1]), passes=given).package
    best = compiled_model(SHAPES[1]).package
    assert implementations(plain) != implementations(best)
    moved = lowered_for(plain, CPU)
    assert implementations(moved) == implementations(best)
    assert moved.weights_sha256 == plain.weights_sha256
    one, other = (weights_of(*package.graphs.values()) for package in (moved, plain))
    assert {n: w.data_ptr() for n, w in one.items()} == {n: w.data_ptr() for n, w in other.items()}


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"device `cuda:99` cannot be used .*choose cpu"):
        compiled_model(SHAPES[0]).engine(device="cuda:99")


@pytest.mark.gpu
def test_weights_that_graphs_share_stay_one_on_a_gpu() -> None:
    package = placed(compiled_model(SHAPES[0]).package, GPU)
    shared = [weights_of(graph) for graph in package.graphs.values()]
    for name, weight in shared[0].items():
        assert weight.is_cuda
        assert all(
            other[name].data_ptr() == weight.data_ptr() for other in shared if name in other
        )


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_an_artifact_of_a_cpu_decodes_the_same_on_a_gpu(backend: str, tmp_path: Path) -> None:
    path = compiled_model(SHAPES[1]).save(tmp_path / "model.dllm")
    config = DecodingConfig(temperature=1.0, seed=3)
    found = [
        dllmc.load(path, backend=backend, device=device).generate(
            PROMPTS, config=config, max_new_tokens=24
        )
        for device in ("cpu", "cuda")
    ]
    assert found[0].tokens == found[1].tokens
    assert found[0].nfe == found[1].nfe


@pytest.mark.gpu
def test_an_artifact_of_a_gpu_decodes_the_same_on_a_cpu(tmp_path: Path) -> None:
    compiled = dllmc.compile(dllmc.load_model("random:llada-tiny", device="cuda"), device="cuda")
    path = compiled.save(tmp_path / "model.dllm")
    engines = [compiled.engine(backend="eager"), dllmc.load(path, backend="eager", device="cpu")]
    assert [engine.device.type for engine in engines] == ["cuda", "cpu"]
    first, second = (engine.generate(PROMPTS, max_new_tokens=24) for engine in engines)
    assert first.tokens == second.tokens


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape.seed))
def test_decisions_on_a_gpu_are_those_of_the_reference(shape: Shape) -> None:
    lockstep(shape, "eager", 8)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=lambda shape: str(shape.seed))
def test_compiled_decisions_on_a_gpu_are_those_of_the_reference(shape: Shape) -> None:
    lockstep(shape, "inductor", 8, plain=True)


def lockstep(shape: Shape, backend: str, cases: int, *, plain: bool = False) -> None:
    """The engine on the GPU beside the reference on the CPU."""
    model, engine = model_of(shape), compiled_model(shape).engine(backend=backend, device="cuda")
    total = Tally()

    @settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(batches(shape, plain=plain))
    def drawn(requests: list[Request]) -> None:
        total.add(run(engine, model.module, model.spec, requests))

    drawn()
    total.check()
    assert total.decisions > 20 * cases
