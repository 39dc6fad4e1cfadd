"""Dream (arXiv 2508.15487): Qwen2.5 with full attention, trained to fill masks.

For `Dream-org/Dream-v0-*-7B` and what was trained from it under the same architecture, such as
DiffuCoder and dParallel-Dream.
"""

from __future__ import annotations

from dllmc.models._qwen import QwenDenoiser
from dllmc.models._qwen_config import QwenConfig

ARCHITECTURES = ("DreamModel",)


class DreamConfig(QwenConfig):
    """Q, K and V have biases whatever `attention_bias` says; a row predicts the next position."""

    family = "dream"
    qkv_bias = True
    logit_shift = 1


class Dream(QwenDenoiser):
    """Every position sees every position; the logits of a row are for the next position."""

    config_type = DreamConfig
