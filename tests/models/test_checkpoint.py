from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from dllmc.models import LoadedModel, architectures, load_checkpoint, load_model
from dllmc.models.shapes import SHAPES
from dllmc.spec import (
    CheckpointError,
    DllmcError,
    ModelNotFoundError,
    UnknownArchitectureError,
)

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "model.transformer.ff_out.weight"


def made(shape: str = "llada-tiny") -> LoadedModel:
    return load_model(f"random:{shape}", seed=3)


def write(folder: Path, model: LoadedModel, **changes: Any) -> Path:
    """The published layout, in one weight file."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(model.config) | changes))
    save_file(model.module.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def shard(folder: Path) -> None:
    """Split the weight file in two, as published checkpoints are."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, mine in files.items():
        save_file({name: tensors[name] for name in mine}, folder / file)
    index = {"weight_map": {name: file for file, mine in files.items() for name in mine}}
    (folder / INDEX).write_text(json.dumps(index))


def tokenizer_of(size: int) -> Tokenizer:
    vocabulary = {f"t{i}": i for i in range(size)}
    return Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))


def logits(model: LoadedModel) -> torch.Tensor:
    tokens = torch.arange(40).reshape(2, 20)
    found: torch.Tensor = model.module(tokens)
    return found


def refused(folder: Path, **arguments: Any) -> DllmcError:
    with pytest.raises(DllmcError) as caught:
        load_checkpoint(folder, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("shape", ["llada-tiny", "llada-tiny-gqa"])
def test_a_checkpoint_gives_back_the_model_that_was_written(
    tmp_path: Path, shape: str, sharded: bool
) -> None:
    model = made(shape)
    folder = write(tmp_path / "mine", model)
    if sharded:
        shard(folder)
    loaded = load_checkpoint(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.spec == model.spec
    assert loaded.config == model.config
    assert loaded.name == "mine"
    assert loaded.source == folder
    assert loaded.tokenizer is None


def test_a_loaded_module_is_for_inference_only(tmp_path: Path) -> None:
    module = load_checkpoint(write(tmp_path, made())).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(tensor.is_meta for tensor in module.state_dict().values())


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    model = made()
    state = dict(model.module.state_dict())
    folder = write(tmp_path, model, weight_tying=True)
    del state[HEAD]
    save_file(state, folder / WEIGHTS)
    loaded = load_checkpoint(folder)
    assert HEAD not in loaded.module.state_dict()
    state[HEAD] = state["model.transformer.wte.weight"]
    model.module.load_state_dict(state)
    assert torch.equal(logits(loaded), logits(model))


def test_weights_keep_their_type_unless_another_is_asked_for(tmp_path: Path) -> None:
    model = made()
    model.module.bfloat16()
    folder = write(tmp_path, model)
    assert logits(load_checkpoint(folder)).dtype == torch.bfloat16
    assert logits(load_checkpoint(folder, torch.float64)).dtype == torch.float64


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    tokenizer_of(96).save(str(folder / "tokenizer.json"))
    loaded = load_checkpoint(folder)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("t7").ids == [7]


def test_links_into_a_download_cache_are_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "snapshot", made())
    shard(folder)
    for file in folder.glob("*.safetensors"):
        file.rename(tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    load_checkpoint(folder)


def test_a_missing_folder_a_file_and_a_folder_without_config_are_no_models(tmp_path: Path) -> None:
    error = refused(tmp_path / "none")
    assert isinstance(error, ModelNotFoundError)
    assert f"`{tmp_path / 'none'}` does not exist; give a folder" in str(error)
    (tmp_path / "file").touch()
    assert "is a file; give a folder" in str(refused(tmp_path / "file"))
    error = refused(tmp_path)
    assert isinstance(error, ModelNotFoundError)
    assert "has no config.json; give a checkpoint folder" in str(error)


def test_an_artifact_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert "is a compiled artifact and no checkpoint; open it with `dllmc.load`" in str(
        refused(tmp_path)
    )


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\x00"], ids=range(4))
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, made())
    (folder / "config.json").write_text(text)
    error = refused(folder)
    assert isinstance(error, CheckpointError)
    assert f"{folder / 'config.json'} is not" in str(error)


def test_an_unknown_architecture_gets_the_nearest(tmp_path: Path) -> None:
    error = refused(write(tmp_path, made(), architectures=["LLaDAModel"]))
    assert isinstance(error, UnknownArchitectureError)
    assert "config.json: architecture `LLaDAModel` has no denoiser" in str(error)
    assert "did you mean `LLaDAModelLM`?" in str(error)


@pytest.mark.parametrize("names", [None, [], "LLaDAModelLM", [1]], ids=str)
def test_a_config_must_name_its_architecture(tmp_path: Path, names: object) -> None:
    error = refused(write(tmp_path, made(), architectures=names))
    assert isinstance(error, CheckpointError)
    assert f"`architectures` is {names!r}; give a list of one of DreamModel, " in str(error)


def test_a_wrong_key_is_named_with_its_file(tmp_path: Path) -> None:
    error = refused(write(tmp_path, made(), n_heads=5))
    assert isinstance(error, CheckpointError)
    assert f"{tmp_path / 'config.json'}: `n_heads`=5 must divide" in str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, "lacks tensor `model.transformer.blocks.2.attn_norm.weight` and 8"),
        ({"n_layers": 1}, "holds tensor `model.transformer.blocks.1.attn_norm.weight` and 8"),
        ({"weight_tying": True}, f"holds tensor `{HEAD}` that its config.json does not ask"),
        ({"n_kv_heads": 2}, "is [32, 32], but config.json asks for [16, 32]"),
        ({"mlp_hidden_size": 65}, "is [32, 64], but config.json asks for [32, 65]"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_the_config_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    error = refused(write(tmp_path, made(), **changes))
    assert isinstance(error, CheckpointError)
    assert message in str(error)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "weights in other formats must be converted" in str(refused(folder))


def test_a_damaged_weight_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    whole = (folder / WEIGHTS).read_bytes()
    huge = struct.pack("<Q", 2**62) + whole[8:]
    for damaged in (whole[:-100], whole[:100], b"", b"not safetensors at all", huge):
        (folder / WEIGHTS).write_bytes(damaged)
        error = refused(folder)
        assert isinstance(error, CheckpointError)
        assert "the file is damaged; copy or download it again" in str(error)


def test_a_quantized_tensor_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    state = load_file(folder / WEIGHTS)
    save_file(state | {HEAD: state[HEAD].to(torch.int8)}, folder / WEIGHTS)
    assert f"tensor `{HEAD}`" in str(refused(folder))
    assert "is stored as I8" in str(refused(folder))


def test_mixed_types_need_a_choice(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    state = load_file(folder / WEIGHTS)
    save_file(state | {HEAD: state[HEAD].half()}, folder / WEIGHTS)
    assert "are of types F16, F32; choose one with `dtype`" in str(refused(folder))
    assert logits(load_checkpoint(folder, torch.float32)).dtype == torch.float32


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    error = refused(folder)
    assert isinstance(error, CheckpointError)
    assert "shard `model-00002-of-00002.safetensors`" in str(error)


@pytest.mark.parametrize(
    "path", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b.safetensors"]
)
def test_a_shard_outside_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = write(tmp_path / "mine", made())
    shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {HEAD: path}}))
    error = refused(folder)
    assert isinstance(error, CheckpointError)
    assert f"names shard `{path}`, which is no safetensors file of this folder" in str(error)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}], ids=str)
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, index: object) -> None:
    folder = write(tmp_path, made())
    shard(folder)
    (folder / INDEX).write_text(json.dumps(index))
    assert "has no `weight_map`" in str(refused(folder))


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "model-00002-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    assert f"model-00002-of-00002.safetensors lacks tensor `{name}`" in str(refused(folder))


def test_a_tokenizer_that_is_damaged_or_too_large_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    tokenizer_of(97).save(str(folder / "tokenizer.json"))
    assert "has token id 96, but the model's vocabulary ends at 95" in str(refused(folder))
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer.json cannot be read" in str(refused(folder))


def test_loading_changes_no_file(tmp_path: Path) -> None:
    folder = write(tmp_path, made())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    load_checkpoint(folder)
    refused(write(tmp_path / "other", made(), n_layers=3))
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_shapes_are_in_the_published_layout() -> None:
    for shape in SHAPES.values():
        (name,) = shape["architectures"]
        assert name in architectures()
