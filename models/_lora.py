"""LoRA adapters (arXiv 2106.09685) in PEFT's layout, merged into their base at loading.

D2F (arXiv 2508.09192) publishes LLaDA and Dream as adapters trained with block-causal attention
over the response, which no published key says: see `_block_length`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dllmc.models._json import DAMAGED, read_json
from dllmc.models._lora_config import LoraConfig
from dllmc.models._names import published_names
from dllmc.spec import CheckpointError, DenoiserSpec, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from dllmc.models._loaded import LoadedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BASE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_MATRIX = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<which>[AB])(\.default)?\.weight")
# Of the published decoder's demonstration; its evaluations use 32, 48 and 64.
_D2F_BLOCK_LENGTH = 32


class Loader(Protocol):
    def __call__(
        self, name_or_path: str | Path, *, dtype: torch.dtype | None, device: str | torch.device
    ) -> LoadedModel: ...


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and not weights of its own."""
    own = any((folder / name).exists() for name in _BASE_WEIGHTS)
    return (folder / CONFIG).exists() and not own


def load_adapter(
    folder: Path, load: Loader, dtype: torch.dtype | None, device: str | torch.device
) -> LoadedModel:
    """Read the base that the adapter names, and add the adapter to its weights.

    Args:
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        load: Reads the base.
        dtype: Of the merged weights; None is as the base's are stored.
        device: Where the weights go.

    Raises:
        CheckpointError: A file is missing or damaged, the base is not there, or the adapter
            does not fit it.
    """
    path = folder / CONFIG
    keys = read_json(path)
    try:
        config = LoraConfig.parse(keys)
        block_length = _block_length(folder, config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    matrices = _read(folder / WEIGHTS)
    base = _load_base(folder, config, load, dtype, device)
    spec = base.spec if block_length is None else _with_blocks(base.spec, block_length, path)
    _merge(base.module, config, matrices, folder)
    return replace(base, spec=spec, name=folder.resolve().name, source=folder)


def _load_base(
    folder: Path,
    config: LoraConfig,
    load: Loader,
    dtype: torch.dtype | None,
    device: str | torch.device,
) -> LoadedModel:
    """From a folder relative to the adapter's or to where we are, else by the name as it is."""
    name = config.base_model_name_or_path
    folders = [path for path in (folder / name, Path(name)) if name and path.is_dir()]
    said = f"{folder / CONFIG}: `base_model_name_or_path` is `{name}`"
    if folders and is_adapter(folders[0]):
        raise CheckpointError(f"{said}, an adapter itself; give a whole checkpoint")
    try:
        return load(folders[0] if folders else name, dtype=dtype, device=device)
    except ModelNotFoundError as error:
        reason = str(error).partition(";")[0]
        raise CheckpointError(
            f"{said}, but {reason}; download it and set the key to its folder"
        ) from error


def _block_length(folder: Path, config: LoraConfig) -> int | None:
    """Length of the response's blocks, or None for an adapter that keeps the base's attention.

    No published key tells D2F from other adapters: its name has to.
    """
    named = any(name.startswith("D2F") for name in published_names(folder))
    d2f = named and config.attention is None
    if d2f or config.attention == "block_causal":
        return config.block_length or _D2F_BLOCK_LENGTH
    if config.block_length is not None:
        raise CheckpointError(
            f"`block_length`={config.block_length} goes with `attention`='block_causal'; add that"
        )
    return None


def _with_blocks(base: DenoiserSpec, block_length: int, path: Path) -> DenoiserSpec:
    if base.attention != "full":
        raise CheckpointError(
            f"{path}: the base's attention is {base.attention} already; remove `attention` and "
            "`block_length`"
        )
    blocks = {"attention": "block_causal", "block_length": block_length, "blocks_from": "response"}
    return DenoiserSpec.model_validate(base.model_dump() | blocks)


def _merge(
    module: nn.Module, config: LoraConfig, matrices: dict[str, dict[str, Tensor]], folder: Path
) -> None:
    """Add the scaled product B A to every adapted weight."""
    layers = {name: layer for name, layer in module.named_modules() if config.targets(name)}
    if unknown := matrices.keys() - layers.keys():
        raise CheckpointError(
            f"{folder / WEIGHTS} adapts {_listed(unknown)}, which is no layer of the base that "
            "`target_modules` names; use the base that the adapter was trained on"
        )
    if not layers or (missing := layers.keys() - matrices.keys()):
        what = f"{_listed(missing)} has no matrices" if layers else "no layer of the base is named"
        raise CheckpointError(
            f"{folder / WEIGHTS} and `target_modules` of {CONFIG} do not agree: {what}; {DAMAGED}"
        )
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            raise CheckpointError(
                f"{folder / CONFIG}: `target_modules` names `{name}`, but only linear layers can "
                "be adapted"
            )
        layer.weight = nn.Parameter(
            _adapted(layer.weight, matrices[name], config, name), requires_grad=False
        )


def _adapted(weight: Tensor, pair: dict[str, Tensor], config: LoraConfig, name: str) -> Tensor:
    rows, columns = weight.shape
    expected = {"A": (config.r, columns), "B": (rows, config.r)}
    for which, shape in expected.items():
        found = list(pair[which].shape) if which in pair else "missing"
        if found != list(shape):
            raise CheckpointError(
                f"matrix {which} of `{name}` is {found}, but `r` and the base ask for "
                f"{list(shape)}; {DAMAGED}"
            )
    # Rounded once: in half precision the product alone would lose small updates.
    wide = torch.promote_types(weight.dtype, torch.float32)
    a, b = (pair[which].to(weight.device, wide) for which in "AB")
    return (weight.to(wide) + config.scale * (b @ a)).to(weight.dtype)


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """The matrices A and B by the name of their layer."""
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing; weights in other formats must be converted to safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _MATRIX.fullmatch(name)
        if match is None or not tensor.is_floating_point():
            raise CheckpointError(
                f"tensor `{name}` of {path} is no LoRA matrix of a linear layer; merge this "
                "adapter with the library that made it"
            )
        found.setdefault(match["layer"], {})[match["which"]] = tensor
    return found


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"`{first}`" + (f" and {len(others)} others" if others else "")
