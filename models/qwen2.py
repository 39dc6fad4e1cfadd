"""Qwen2.5 (arXiv 2412.15115) as it was trained: causal, an auxiliary of the denoisers.

APD (arXiv 2506.00413) lets Qwen2.5-0.5B weigh what Dream proposes; dllmc's own auxiliary model
is a small one of this architecture.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from dllmc.models._keys import Size, TokenId
from dllmc.models._qwen import QwenDenoiser
from dllmc.models._qwen_config import QwenConfig
from dllmc.spec import DenoiserSpec

ARCHITECTURES = ("Qwen2ForCausalLM",)


class Qwen2Config(QwenConfig):
    """Q, K and V have biases; a row predicts the next position.

    The published tokenizer has no mask: the id that Dream gave it stands in where `config.json`
    has no `mask_token_id`, and an auxiliary never sees it.
    """

    family = "auxiliary"
    qkv_bias = True
    logit_shift = 1

    mask_token_id: TokenId = 151666
    pad_token_id: TokenId | None = None
    prompt_slots: Size | None = None
    """Not a published key: prompts are padded with `pad_token_id` to so many slots."""

    @property
    def block_length(self) -> int:
        """1: a row sees itself and what stands before it."""
        return 1

    def spec(self) -> DenoiserSpec:
        """What the compiler must know beside the graph."""
        return DenoiserSpec(
            **super()
            .spec()
            .model_dump(exclude={"attention", "block_length", "prompt_slots", "pad_id", "role"}),
            attention="causal",
            role="auxiliary",
            prompt_slots=self.prompt_slots,
            pad_id=self.pad_token_id if self.prompt_slots else None,
        )

    @model_validator(mode="after")
    def _slots(self) -> Self:
        if self.prompt_slots is None:
            return self
        if self.pad_token_id is None:
            raise ValueError(f"`prompt_slots`={self.prompt_slots} needs a `pad_token_id`")
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"`pad_token_id`={self.pad_token_id} must be under the vocabulary size, "
                f"{self.vocab_size}"
            )
        if self.prompt_slots >= self.max_position_embeddings:
            raise ValueError(
                f"`prompt_slots`={self.prompt_slots} must be under "
                f"`max_position_embeddings`={self.max_position_embeddings}"
            )
        return self


class Qwen2(QwenDenoiser):
    """Causal attention; the logits of a row are for the next position."""

    config_type = Qwen2Config
