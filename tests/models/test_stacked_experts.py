"""Experts that are stored one tensor each and held in stacks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from published.layout import INDEX, write, write_sharded
from published.mixtures import tensors_of

from dllmc.models import load_checkpoint, load_model
from dllmc.models._stacked import places, stack, stored_shapes
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

SHAPES = ("llada-moe-tiny", "llada2-tiny", "sdar-moe-tiny")
# The second layer has experts in all of them.
EXPERT = "model.layers.1.mlp.experts.5"


def stored(shape: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    model = load_model(f"random:{shape}")
    return dict(model.config), tensors_of(model.module)


def refused(folder: Path, **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_missing_expert_is_named(tmp_path: Path, shape: str) -> None:
    keys, tensors = stored(shape)
    del tensors[f"{EXPERT}.up_proj.weight"]
    error = refused(write(tmp_path, keys, tensors))
    assert f"lacks tensor `{EXPERT}.up_proj.weight` that its config.json asks for" in error


@pytest.mark.parametrize("shape", SHAPES)
def test_an_expert_too_many_is_named(tmp_path: Path, shape: str) -> None:
    keys, tensors = stored(shape)
    extra = f"{EXPERT.replace('.5', '.8')}.up_proj.weight"
    error = refused(write(tmp_path, keys, tensors | {extra: torch.zeros(16, 32)}))
    assert f"holds tensor `{extra}` that its config.json does not ask for" in error
    assert "number of layers and experts" in error


def test_fewer_experts_in_the_config_than_in_the_file_are_noticed(tmp_path: Path) -> None:
    keys, tensors = stored("llada-moe-tiny")
    error = refused(write(tmp_path, keys | {"num_experts": 4}, tensors))
    assert "experts.4.down_proj.weight` and 23 others" in error


@pytest.mark.parametrize("shape", SHAPES)
def test_an_expert_of_another_width_is_named(tmp_path: Path, shape: str) -> None:
    keys, tensors = stored(shape)
    tensors[f"{EXPERT}.down_proj.weight"] = torch.zeros(32, 17)
    error = refused(write(tmp_path, keys, tensors))
    assert f"tensor `{EXPERT}.down_proj.weight` of" in error
    assert "is [32, 17], but config.json asks for [32, 16]" in error


def test_an_expert_of_another_type_needs_a_choice(tmp_path: Path) -> None:
    keys, tensors = stored("llada-moe-tiny")
    tensors[f"{EXPERT}.gate_proj.weight"] = tensors[f"{EXPERT}.gate_proj.weight"].half()
    folder = write(tmp_path, keys, tensors)
    assert "are of types F16, F32; choose one with `dtype`" in refused(folder)
    loaded = load_checkpoint(folder, torch.float32).module
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_quantized_expert_is_refused(tmp_path: Path) -> None:
    keys, tensors = stored("llada-moe-tiny")
    name = f"{EXPERT}.gate_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    assert f"tensor `{name}` of" in refused(write(tmp_path, keys, tensors))


def test_an_expert_that_is_not_in_its_shard_is_named(tmp_path: Path) -> None:
    keys, tensors = stored("llada-moe-tiny")
    folder = write_sharded(tmp_path, keys, tensors)
    index = json.loads((folder / INDEX).read_text())
    files, name = index["weight_map"], f"{EXPERT}.up_proj.weight"
    (wrong,) = set(files.values()) - {files[name]}
    files[name] = wrong
    (folder / INDEX).write_text(json.dumps(index))
    assert f"{wrong} lacks tensor `{name}`" in refused(folder)


def test_stacks_in_a_file_are_not_what_is_published(tmp_path: Path) -> None:
    model = load_model("random:llada-moe-tiny")
    error = refused(write(tmp_path, model.config, model.module.state_dict()))
    assert "lacks tensor `model.layers.0.mlp.experts.0.down_proj.weight` and 47 others" in error


def test_a_stack_takes_its_pieces_one_by_one() -> None:
    shapes = {"up": (3, 4, 5), "plain": (2,)}
    stacks = {"up": tuple((f"{e}.a", f"{e}.b") for e in range(3))}
    placed = places(stacks, shapes)
    assert stored_shapes(shapes, placed) == {"plain": (2,)} | {
        f"{e}.{part}": (2, 5) for e in range(3) for part in "ab"
    }
    alive: list[bool] = []

    def one_by_one() -> Iterator[tuple[str, Tensor]]:
        for number, name in enumerate(("1.b", "plain", "0.a", "2.b", "2.a", "1.a", "0.b")):
            alive.append(True)
            shape = (2,) if name == "plain" else (2, 5)
            yield name, torch.full(shape, float(number))

    found = stack(one_by_one(), shapes, placed)
    assert set(found) == {"up", "plain"}
    assert found["up"][:, ::2, 0].tolist() == [[2.0, 6.0], [5.0, 0.0], [4.0, 3.0]]
