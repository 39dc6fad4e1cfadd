"""LLaDA-MoE (arXiv 2509.24389): a bidirectional mixture of experts that fills masks.

For `inclusionAI/LLaDA-MoE-7B-A1B-*`. The body is that of Qwen3, the routing that of OLMoE
(arXiv 2409.02060): the chosen experts keep the weights that the softmax gave them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dllmc.models._keys import Size, TokenId
from dllmc.models._moe import RoutedConfig, RoutedDenoiser

ARCHITECTURES = ("LLaDAMoEModelLM",)


class LLaDAMoEConfig(RoutedConfig):
    """The mask and ending tokens are those of the published decoder where no key says so."""

    family = "llada-moe"
    # The published code reads `norm_topk_prob` nowhere, and `routed_scaling_factor` neither.
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "attention_bias": (False, None),
        "clip_qkv": (None,),
        "moe_router_enable_expert_bias": (False, None),
        "moe_router_score_function": ("softmax", None),
        "norm_topk_prob": (False, None),
        "partial_rotary_factor": (1, 1.0, None),
        "qk_layernorm": (True,),
        "routed_scaling_factor": (1, 1.0, None),
        "shared_expert_intermediate_size": (None,),
    }

    intermediate_size: Annotated[Size, Field(validation_alias="dense_intermediate_size")]
    expert_intermediate_size: Size
    moe_layer_freq: list[Annotated[int, Field(ge=0, le=1)]]
    mask_token_id: TokenId = 156895
    eos_token_id: TokenId | list[TokenId] | None = 156892

    @property
    def expert_width(self) -> int:
        """Hidden width of an expert."""
        return self.expert_intermediate_size

    def routes(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return self.moe_layer_freq[layer] == 1

    @model_validator(mode="after")
    def _every_layer(self) -> Self:
        if len(self.moe_layer_freq) != self.num_hidden_layers:
            raise ValueError(
                f"`moe_layer_freq` has {len(self.moe_layer_freq)} entries, but "
                f"`num_hidden_layers` is {self.num_hidden_layers}; give one per layer"
            )
        return self


class LLaDAMoE(RoutedDenoiser):
    """Tokens `[B, T]` int64 -> logits `[B, T, vocab]`; every position sees every position."""

    config_type = LLaDAMoEConfig
