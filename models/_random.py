"""Random weights under which a denoiser is unsure to varied degrees, as a trained one is."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec

# With the usual initialisation (0.02) all tokens are about as likely, and thresholds, ties and
# orders are never tried. Of V normal logits of deviation s the largest probability is near 0
# under s = sqrt(2 ln V) and near 1 far above it; at 1.5 times that it is spread over (0, 1).
_HEAD_GAIN = 1.5
# Sharp attention: with even attention all masked rows, which embed alike, would predict alike.
_ATTENTION_GAIN = 3.0
# Decided routers: with all experts about as likely, rounding would choose among them.
_ROUTER_GAIN = 2.0
_NORMS_OF_QK = ("q_norm.weight", "k_norm.weight", "query_layernorm.weight", "key_layernorm.weight")


def fill(
    module: nn.Module,
    spec: DenoiserSpec,
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device,
) -> None:
    """Replace the weights of `module`, which may be on the meta device, by random ones.

    Every weight has a generator of its own, on the CPU: they are the same on every device, and in
    every type up to its rounding. Parameters get `dtype`; buffers keep their own.
    """
    for path, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            values = _draw(f"{path}.{name}", parameter.shape, spec, seed).to(device, dtype)
            setattr(owner, name, nn.Parameter(values, requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, _draw(f"{path}.{name}", buffer.shape, spec, seed).to(device))


def _draw(name: str, shape: torch.Size, spec: DenoiserSpec, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(_seed(seed, name))
    mean, deviation = _moments(name, shape, spec)
    return torch.empty(shape).normal_(generator=generator).mul_(deviation).add_(mean)


def _moments(name: str, shape: torch.Size, spec: DenoiserSpec) -> tuple[float, float]:
    if name.endswith(_NORMS_OF_QK):
        # Scores do not depend on the projections' gains then.
        return math.sqrt(_ATTENTION_GAIN), 0.1
    if len(shape) == 1:
        # Off their neutral values, so that a bias or a norm's weight that gets lost is noticed.
        return (0.0, 0.1) if name.endswith("bias") else (1.0, 0.1)
    gain = 1.0
    if name.endswith(".gate.weight"):
        gain = _ROUTER_GAIN
    elif shape[0] == spec.vocab_size and len(shape) == 2:
        gain = _HEAD_GAIN * math.sqrt(2 * math.log(spec.vocab_size))
    elif name.endswith(("q_proj.weight", "k_proj.weight")):
        gain = math.sqrt(_ATTENTION_GAIN)
    return 0.0, gain / math.sqrt(shape[-1])


def _seed(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
