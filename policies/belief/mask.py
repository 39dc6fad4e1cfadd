"""Undecided rows are fed the embedding of the mask token."""

from __future__ import annotations

from typing import Literal

from dllmc.policies.axes import Belief


class MaskEmbedding(Belief):
    """As every masked-diffusion model was trained."""

    kind: Literal["mask"] = "mask"
