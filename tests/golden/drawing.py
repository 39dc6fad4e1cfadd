"""Weights that follow from a seed, by the names of the stored tensors.

The generators in `benchmarks/parity` give them to the published models and the tests to ours, so
that no weights are stored. Nothing but numpy draws.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

PROJECTIONS = ("q_proj.", "k_proj.")
NORMS = ("q_norm.", "k_norm.", "query_layernorm.", "key_layernorm.")
EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight")


def draw(
    shapes: Mapping[str, Sequence[int]],
    mask_id: int,
    *,
    seed: int,
    qk_scale: float,
    embedding_scale: float,
    head_scale: float,
    embedding: str | None = None,
    head: str = "lm_head.weight",
) -> dict[str, Tensor]:
    """One float32 tensor per name, drawn in the order of the names.

    The scales set how much attention, context and confidences vary; the mask's logit is 0,
    which is never the largest. `embedding` and `head` are names that say less than others'.
    """
    generator = np.random.default_rng(seed)
    state = {}
    for name, shape in sorted(shapes.items()):
        value = generator.standard_normal(tuple(shape))
        if name.endswith("bias"):
            value *= 0.1
        elif len(shape) == 1:
            value = 1 + 0.1 * value
        elif name.endswith(EMBEDDINGS) or name == embedding:
            value *= embedding_scale
        else:
            value /= math.sqrt(shape[1])
        if any(part in name for part in PROJECTIONS + NORMS):
            value *= qk_scale
        if name == head:
            value *= head_scale
            value[mask_id] = 0
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state
