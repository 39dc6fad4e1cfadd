"""Small tensors to a device and back, all of them in one copy.

Every copy of a Python list to a GPU waits for the GPU, and so does every look at a result. What a
step takes and what it tells are some twenty tensors of a few bytes each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """`tensors` of the host on `device`; does not wait for it."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    names = _by_width(tensors)
    packed = torch.cat([_bytes(tensors[name]) for name in names]).pin_memory()
    moved = packed.to(device, non_blocking=True)
    return _unpacked(names, tensors, moved)


def to_host(results: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """`results` of a device on the host: the one place where decoding waits for a device."""
    if not any(tensor.is_cuda for each in results for tensor in each.values()):
        return [dict(each) for each in results]
    named = {f"{i}/{n}": t for i, each in enumerate(results) for n, t in each.items()}
    names = _by_width(named)
    found = _unpacked(names, named, torch.cat([_bytes(named[name]) for name in names]).cpu())
    return [{n: found[f"{i}/{n}"] for n in each} for i, each in enumerate(results)]


def _by_width(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names, those of wide elements first: a view of bytes must stand where its dtype may."""
    return sorted(tensors, key=lambda name: -tensors[name].element_size())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _unpacked(
    names: Sequence[str], like: Mapping[str, Tensor], packed: Tensor
) -> dict[str, Tensor]:
    sizes = [like[name].numel() * like[name].element_size() for name in names]
    parts = packed.split(sizes)
    return {
        name: part.view(like[name].dtype).view(like[name].shape)
        for name, part in zip(names, parts, strict=True)
    }
