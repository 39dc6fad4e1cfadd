"""Reading a checkpoint folder in Hugging Face layout."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from dllmc.models._generation_config import with_stop_ids
from dllmc.models._json import DAMAGED, read_json
from dllmc.models._loaded import LoadedModel
from dllmc.models._names import published_names
from dllmc.models._registry import denoiser_for
from dllmc.models._special_tokens import read_chat_template, read_special_tokens
from dllmc.models._stacked import places, stack, stored_shapes
from dllmc.models._tokenizer import read_tokenizer
from dllmc.spec import CheckpointError, ModelNotFoundError, UnknownArchitectureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from torch import Tensor, nn

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


def load_checkpoint(
    folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Read `config.json`, the weights (one file or shards) and the tokenizer, if present.

    Args:
        folder: The checkpoint.
        dtype: Of the weights in memory; None leaves them as they are stored. What is no weight,
            such as the bias that corrects a router, always stays as it is stored.
        device: Where the weights go.

    Raises:
        ModelNotFoundError: There is no checkpoint at `folder`.
        UnknownArchitectureError: There is no denoiser for its architecture.
        CheckpointError: A file is missing or damaged, or the weights do not fit `config.json`.
    """
    folder = Path(folder)
    keys = _read_config(folder)
    try:
        denoiser = denoiser_for(keys)
        # Without storage: the stored tensors take the places of these parameters.
        with torch.device("meta"):
            module, spec = denoiser.from_config({**keys, "names": published_names(folder)})
    except (CheckpointError, UnknownArchitectureError) as error:
        raise type(error)(f"{folder / 'config.json'}: {error}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    placed = places(getattr(module, "stored_as", {}), shapes)
    stored = stored_shapes(shapes, placed)
    buffers = {name for name, _ in module.named_buffers()}
    files = _locate(folder)
    originals: dict[str, str] = getattr(module, "copies", {})
    copies = {name: files.pop(name) for name in originals if name in files}
    _check_names(folder, stored, files)
    copied = {name: shapes[originals[name]] for name in copies}
    _check_headers(stored | copied, files | copies, dtype, buffers)
    state = stack(_read(files, dtype, device, buffers), shapes, placed)
    module.load_state_dict(state, assign=True)
    for name, copy in _read(copies, dtype, device):
        _check_copy(folder, name, copy, originals[name], module)
    module.eval().requires_grad_(False)
    return LoadedModel(
        module,
        with_stop_ids(spec, folder),
        read_tokenizer(folder, spec.vocab_size),
        folder.resolve().name,
        folder,
        keys,
        read_chat_template(folder),
        read_special_tokens(folder),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelNotFoundError(
            f"model folder `{folder}` {what}; give a folder with config.json and {WEIGHTS}"
        )
    path = folder / "config.json"
    if not path.exists():
        if (folder / "manifest.json").exists():
            raise ModelNotFoundError(
                f"`{folder}` is a compiled artifact and no checkpoint; open it with `dllmc.load`"
            )
        raise ModelNotFoundError(
            f"`{folder}` has no config.json; give a checkpoint folder in Hugging Face layout"
        )
    return read_json(path)


def _locate(folder: Path) -> dict[str, Path]:
    """The file of each stored tensor."""
    if (folder / WEIGHTS).exists():
        return dict.fromkeys(_headers(folder / WEIGHTS), folder / WEIGHTS)
    index = folder / INDEX
    if not index.exists():
        raise CheckpointError(
            f"`{folder}` has neither {WEIGHTS} nor {INDEX}; weights in other formats must be "
            "converted to safetensors"
        )
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise CheckpointError(f"{index} has no `weight_map` of tensor to file; {DAMAGED}")
    for shard in sorted(set(shards.values())):
        # By name only: in a Hugging Face cache the shards are links to files elsewhere.
        if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names shard `{shard}`, which is no safetensors file of this folder; "
                "do not use this checkpoint"
            )
        if not (folder / shard).exists():
            raise CheckpointError(f"shard `{shard}` of `{folder}` is missing; download it")
    return {name: folder / shard for name, shard in shards.items()}


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and stored type of each tensor of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {DAMAGED}") from error


def _check_names(folder: Path, shapes: Mapping[str, object], files: Mapping[str, Path]) -> None:
    if missing := shapes.keys() - files.keys():
        raise CheckpointError(
            f"`{folder}` lacks {_listed(missing)} that its config.json asks for; "
            "download it again, or correct config.json"
        )
    if unexpected := files.keys() - shapes.keys():
        raise CheckpointError(
            f"`{folder}` holds {_listed(unexpected)} that its config.json does not ask for; "
            "correct config.json (number of layers and experts, tied embeddings, biases)"
        )


def _check_copy(folder: Path, name: str, copy: Tensor, original: str, module: nn.Module) -> None:
    if not torch.equal(copy, module.get_parameter(original)):
        raise CheckpointError(
            f"tensor `{name}` of `{folder}` is not `{original}`, with which config.json ties it; "
            "correct `tie_word_embeddings`"
        )


def _check_headers(
    shapes: Mapping[str, tuple[int, ...]],
    files: Mapping[str, Path],
    dtype: torch.dtype | None,
    buffers: Collection[str],
) -> None:
    headers = {path: _headers(path) for path in dict.fromkeys(files.values())}
    stored = set()
    for name, path in files.items():
        if name not in headers[path]:
            raise CheckpointError(f"{path} lacks tensor `{name}`; {DAMAGED}")
        shape, kind = headers[path][name]
        if shape != shapes[name]:
            raise CheckpointError(
                f"tensor `{name}` of {path} is {list(shape)}, but config.json asks for "
                f"{list(shapes[name])}; correct config.json or download it again"
            )
        if kind not in _FLOATS:
            raise CheckpointError(
                f"tensor `{name}` of {path} is stored as {kind}; only "
                f"{', '.join(_FLOATS)} are read: use an unquantized checkpoint"
            )
        if name not in buffers:
            stored.add(kind)
    if dtype is None and len(stored) > 1:
        raise CheckpointError(
            f"the tensors of {path.parent} are of types {', '.join(sorted(stored))}; "
            "choose one with `dtype`"
        )


def _read(
    files: Mapping[str, Path],
    dtype: torch.dtype | None,
    device: str | torch.device,
    buffers: Collection[str] = (),
) -> Iterator[tuple[str, Tensor]]:
    names = defaultdict(list)
    for name, path in files.items():
        names[path].append(name)
    for path in names:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in names[path]:
                yield name, file.get_tensor(name).to(None if name in buffers else dtype)


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"tensor `{first}`" + (f" and {len(others)} others" if others else "")
