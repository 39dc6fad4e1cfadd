"""Uniform numbers that follow from a seed, for loops that choose tokens at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def draw_uniforms(seed: int, evaluations: int, length: int) -> Tensor:
    """A float32 row for each evaluation, with a number for each position of the canvas."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.random((evaluations, length), dtype=np.float32))
