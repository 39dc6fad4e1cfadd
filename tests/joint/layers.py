"""Untrained layers of joint samplers, in files."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from dllmc.policies.verify._joint_layer import JointLayer

_FOLDER = tempfile.TemporaryDirectory()  # removed when the tests end


def drawn_layer(width: int = 32, heads: int = 4, *, seed: int = 0, out: float = 1.0) -> JointLayer:
    """Random weights; `out` scales what the layer adds to the hidden states."""
    noise = torch.Generator().manual_seed(seed)
    inner = width + 8

    def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=noise) * scale * shape[-1] ** -0.5

    weights = {
        "fuse": drawn(width, 2 * width, scale=2.0),
        "norm_attention": 1 + drawn(width),
        "qkv": drawn(3 * width, width, scale=2.0),
        "attention_out": drawn(width, width),
        "norm_mlp": 1 + drawn(width),
        "gate_up": drawn(2 * inner, width),
        "down": drawn(width, inner),
        "out": drawn(width, width, scale=out),
    }
    return JointLayer(weights, heads, 10000.0)


@functools.cache
def layer_file(width: int = 32, heads: int = 4, seed: int = 0, out: float = 1.0) -> str:
    """The path of a file with such a layer."""
    path = str(Path(_FOLDER.name) / f"layer-{width}-{heads}-{seed}-{out}.safetensors")
    save_layer(path, drawn_layer(width, heads, seed=seed, out=out))
    return path


def save_layer(path: str, layer: JointLayer) -> None:
    told = {"heads": str(layer.heads), "rope_theta": repr(layer.theta)}
    save_file(dict(layer.weights), path, told)
