"""A model by its name or path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dllmc.models import _random
from dllmc.models._hub import download, is_hub_name
from dllmc.models._loaded import LoadedModel
from dllmc.models._lora import is_adapter, load_adapter
from dllmc.models._registry import denoiser_for
from dllmc.models.auxiliary import CHECKPOINT as AUXILIARY
from dllmc.models.checkpoint import load_checkpoint
from dllmc.models.embedded import CHECKPOINT
from dllmc.models.shapes import SHAPES
from dllmc.spec import ModelNotFoundError, UsageError, nearest

_EMBEDDED, _AUXILIARY, _RANDOM = "embedded", "auxiliary", "random:"


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> LoadedModel:
    """Load a model.

    Args:
        name_or_path: `embedded`, the trained model that comes with dllmc; `auxiliary`, a causal
            one with the same tokenizer, which drafts or verifies for it; `random:SHAPE`, random
            weights, where SHAPE is a key of `dllmc.models.shapes.SHAPES`; or a checkpoint folder
            (write `./embedded` for a folder of that name), which may be a LoRA adapter's. Where
            there is no such folder, `ORG/NAME` or `ORG/NAME@REVISION` is a model of the hub.
        dtype: Of the weights. None is as stored, and float32 for random weights.
        device: Where the weights go.
        seed: Of random weights.

    Raises:
        ModelNotFoundError: There is no such name, shape or folder.
        UnknownArchitectureError: There is no denoiser for the checkpoint's architecture.
        CheckpointError: The checkpoint is damaged or does not fit its `config.json`.
        UsageError: The device cannot be used here.
    """
    _check_device(device)
    name = str(name_or_path)
    if name == _EMBEDDED:
        return _load_shipped(name, CHECKPOINT, dtype, device)
    if name == _AUXILIARY:
        return _load_shipped(name, AUXILIARY, dtype, device)
    if name.startswith(_RANDOM):
        return _make_random(name.removeprefix(_RANDOM), dtype or torch.float32, device, seed)
    if not Path(name).exists() and is_hub_name(name):
        return replace(load_model(download(name), dtype=dtype, device=device), name=name)
    if not Path(name).exists():
        known = [_EMBEDDED, _AUXILIARY, *(f"{_RANDOM}{shape}" for shape in SHAPES)]
        raise ModelNotFoundError(
            f"there is no model `{name}`; {nearest(name, known)}, or a checkpoint folder's path"
        )
    if is_adapter(Path(name)):
        return load_adapter(Path(name), load_model, dtype, device)
    return load_checkpoint(name, dtype, device)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"device `{device}` cannot be used ({reason}); choose cpu") from error


def _load_shipped(
    name: str, folder: Path, dtype: torch.dtype | None, device: str | torch.device
) -> LoadedModel:
    if not folder.exists():
        raise ModelNotFoundError(
            f"the {name} model is missing from {folder}; reinstall dllmc, or train it with "
            f"`python -m dllmc.models.{name}.train`"
        )
    return replace(load_checkpoint(folder, dtype, device), name=name)


def _make_random(
    shape: str, dtype: torch.dtype, device: str | torch.device, seed: int
) -> LoadedModel:
    if shape not in SHAPES:
        raise ModelNotFoundError(f"`{shape}` is not a shape; {nearest(shape, SHAPES)}")
    config = SHAPES[shape]
    with torch.device("meta"):
        module, spec = denoiser_for(config).from_config(config)
    _random.fill(module, spec, seed, dtype, device)
    return LoadedModel(module.eval(), spec, None, f"{_RANDOM}{shape}", None, config)
