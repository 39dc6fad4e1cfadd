"""The keys of `config.json` in checkpoints of LLaDA2.0 and LLaDA2.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dllmc.models._keys import Size, TokenId
from dllmc.models._qwen_config import QwenConfig


class LLaDA2Config(QwenConfig):
    """The keys that shape the network; others are ignored.

    Published files name neither the mask token nor the blocks, and not always the ending token.
    Then they are those of the published decoder. `block_size` is no published key.
    """

    family = "llada2"
    qk_norm = True
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "moe_router_enable_expert_bias": (True,),
        "norm_head": (False,),
        "norm_topk_prob": (True,),
        "router_dtype": ("fp32",),
        "score_function": ("sigmoid",),
        "tie_word_embeddings": (False,),
        "use_bias": (False,),
        "use_qk_norm": (True,),
        "use_qkv_bias": (False,),
    }

    head_dim: Size
    num_experts: Size
    num_experts_per_tok: Size
    num_shared_experts: Size
    moe_intermediate_size: Size
    first_k_dense_replace: Annotated[int, Field(ge=0)]
    n_group: Size
    topk_group: Size
    routed_scaling_factor: Annotated[float, Field(gt=0)]
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)]
    block_size: Size = 32
    mask_token_id: TokenId = 156895
    eos_token_id: TokenId | list[TokenId] | None = 156892

    @property
    def block_length(self) -> int:
        """Length of a block of block-causal attention."""
        return self.block_size

    @property
    def rotary_width(self) -> int:
        """How much of a head's width turns with the position, from its start."""
        return int(self.head_dim * self.partial_rotary_factor)

    @model_validator(mode="after")
    def _routable(self) -> Self:
        if self.num_experts % self.n_group or self.num_experts < 2 * self.n_group:
            raise ValueError(
                f"`n_group`={self.n_group} must divide `num_experts`={self.num_experts} into "
                "groups of two or more"
            )
        if self.topk_group > self.n_group:
            raise ValueError(
                f"`topk_group`={self.topk_group} must not be over `n_group`={self.n_group}"
            )
        eligible = self.topk_group * (self.num_experts // self.n_group)
        if self.num_experts_per_tok > eligible:
            raise ValueError(
                f"`num_experts_per_tok`={self.num_experts_per_tok} must not be over the "
                f"{eligible} experts of `topk_group`={self.topk_group} groups"
            )
        if self.rotary_width == 0 or self.rotary_width % 2:
            raise ValueError(
                f"`partial_rotary_factor`={self.partial_rotary_factor} turns "
                f"{self.rotary_width} of `head_dim`={self.head_dim}, which must be even"
            )
        return self
