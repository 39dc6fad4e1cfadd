from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
from lockstep.compare import Request, Tally, run
from lockstep.drawn import SHAPES, model_of
from torch import nn

from dllmc.artifact import load_package, save_package
from dllmc.artifact.summary import summarise
from dllmc.compiler import compile_model
from dllmc.compiler.precision import PRECISIONS
from dllmc.kernels.int4_linear import dequantise_int4, quantise_int4
from dllmc.kernels.int8_linear import quantise_int8
from dllmc.policies.config import SAFE, SPEED_BASELINE
from dllmc.runtime.engine import Engine
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.compiler import CompiledModel
    from dllmc.models import LoadedModel

MODEL = SHAPES[1]
PROMPTS = ([5, 6, 7], [9], [3, 3, 8, 2, 14])


def compiled(precision: str | None, backend: str = "eager", **options: object) -> CompiledModel:
    return compile_model(
        model_of(MODEL),
        engine_of=Engine,
        backend=backend,
        precision=precision,
        **options,  # type: ignore[arg-type]
    )


def rounded_by_hand(model: LoadedModel, bits: int) -> LoadedModel:
    """The plain model with rounded weights in all linear layers but the head."""
    module = copy.deepcopy(model.module)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and not name.endswith("transformer.ff_out"):
            weight = layer.weight.data
            if bits == 8:
                codes, scales = quantise_int8(weight)
                layer.weight.data = codes.to(weight.dtype) * scales[:, None]
            else:
                group = 32 if weight.shape[1] % 32 == 0 else 16
                layer.weight.data = dequantise_int4(*quantise_int4(weight, group))
    return dataclasses.replace(model, module=module)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits", [8, 4])
def test_it_decides_as_the_reference_does_with_rounded_weights(bits: int, backend: str) -> None:
    model = rounded_by_hand(model_of(MODEL), bits)
    engine = compiled(f"int{bits}", backend).engine()
    total = Tally()
    for config in (SAFE, SPEED_BASELINE, SAFE.replace(cache={"kind": "prefix"})):
        requests = [Request(prompt, config, 24, number) for number, prompt in enumerate(PROMPTS)]
        total.add(run(engine, model.module, model.spec, requests))
    total.check()


def test_rounding_changes_what_is_decided() -> None:
    # Or nothing above would be tested.
    tokens = {
        bits: compiled(bits)
        .engine()
        .generate(list(PROMPTS), max_new_tokens=24, config=SAFE)
        .tokens
        for bits in (None, "int8", "int4")
    }
    assert tokens["int4"] != tokens[None]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_artifact_says_what_it_was_rounded_to(precision: str, tmp_path: Path) -> None:
    made = compiled(precision, verify=True)
    path = save_package(made.package, tmp_path / "rounded.dllm")
    found = load_package(path)
    assert found.precision == made.package.precision == summarise(path).manifest.precision
    said = precision.replace("int4", "int4 in groups of 32")
    assert found.precision == said
    assert found.dtype == ("bfloat16" if "bfloat16" in precision else "float32")
    plain = compiled(None).package
    assert plain.precision is None
    # Whatever was learnt of the model as it was belongs to other weights.
    assert found.weights_sha256 != plain.weights_sha256
    expected = made.engine().generate(list(PROMPTS), max_new_tokens=9, config=SPEED_BASELINE)
    again = Engine(found).generate(list(PROMPTS), max_new_tokens=9, config=SPEED_BASELINE)
    assert again.tokens == expected.tokens


def test_it_takes_less_room(tmp_path: Path) -> None:
    sizes = {}
    for precision in (None, "bfloat16", "int8", "int4"):
        path = save_package(compiled(precision).package, tmp_path / str(precision))
        sizes[precision] = (path / "weights.safetensors").stat().st_size
    assert sizes[None] > sizes["bfloat16"] > sizes["int4"]
    assert sizes[None] > sizes["int8"] > sizes["int4"]


def test_the_model_is_left_as_it_was() -> None:
    before = {name: t.clone() for name, t in model_of(MODEL).module.state_dict().items()}
    compiled("bfloat16+int4")
    after = model_of(MODEL).module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="`precision`='int7' is unknown; did you mean `int8`"):
        compiled("int7")
    with pytest.raises(UsageError, match="both `precision` and pass `quantise_weights`"):
        compiled("int8", passes={"quantise_weights": {"enabled": True}})
    options = {"quantise_weights": {"enabled": True, "bits": 4, "group": 16}}
    assert compiled(None, passes=options).package.precision == "int4 in groups of 16"
