"""The keys of `config.json` in checkpoints with a Qwen2.5 or Qwen3 body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dllmc.models._keys import Size, TokenId, ids_of, one_line, refuse_others
from dllmc.spec import CheckpointError, DenoiserSpec

# Keys that would change the network, with the values for which it is the one in _qwen.py. A
# `sliding_window` has no effect without `use_sliding_window`, and stands in many checkpoints.
_ONLY: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
}


class QwenConfig(BaseModel):
    """The keys that shape the network; others, such as `transformers_version`, are ignored.

    A model's own class says what its architecture fixes without a key. As for LLaDA, a key
    whose default would silently be wrong for some checkpoint is required.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    family: ClassVar[str]
    qkv_bias: ClassVar[bool] = False
    qk_norm: ClassVar[bool] = False
    logit_shift: ClassVar[int] = 0
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    vocab_size: Annotated[int, Field(gt=1)]
    max_position_embeddings: Annotated[int, Field(gt=1)]
    mask_token_id: TokenId
    rms_norm_eps: Annotated[float, Field(gt=0)]
    rope_theta: Annotated[float, Field(gt=0)]
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    tie_word_embeddings: bool = False
    layer_types: list[str] | None = None

    @classmethod
    def parse(cls, keys: Mapping[str, object]) -> Self:
        """Validate the keys of `config.json`.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        refuse_others(keys, {**_ONLY, **cls.only})
        try:
            return cls.model_validate(keys)
        except ValidationError as error:
            raise CheckpointError(one_line(error)) from error

    @property
    def block_length(self) -> int | None:
        """Length of a block of block-causal attention, or None where attention is full."""
        return None

    @property
    def head_width(self) -> int:
        """Width of one attention head, which need not divide `hidden_size`."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """How much of a head's width turns with the position, from its start."""
        return self.head_width

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; fewer than of queries with grouped-query attention."""
        return self.num_key_value_heads or self.num_attention_heads

    def spec(self) -> DenoiserSpec:
        """What the compiler must know beside the graph."""
        return DenoiserSpec(
            mask_id=self.mask_token_id,
            vocab_size=self.vocab_size,
            max_length=self.max_position_embeddings,
            eos_ids=ids_of(self.eos_token_id),
            attention="full" if self.block_length is None else "block_causal",
            block_length=self.block_length,
            logit_shift=1 if self.logit_shift else 0,
            family=self.family,
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads`={self.num_attention_heads} must divide "
                f"`hidden_size`={self.hidden_size} where there is no `head_dim`"
            )
        if self.head_width % 2:
            raise ValueError(
                f"the width of a head, {self.head_width}, must be even for rotary positions; "
                "correct `head_dim` or `num_attention_heads`"
            )
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"`num_key_value_heads`={self.kv_heads} must divide "
                f"`num_attention_heads`={self.num_attention_heads}"
            )
        ids = {"mask_token_id": (self.mask_token_id,), "eos_token_id": ids_of(self.eos_token_id)}
        for key, values in ids.items():
            if max(values, default=0) >= self.vocab_size:
                raise ValueError(
                    f"`{key}`={max(values)} must be under the vocabulary size, {self.vocab_size}"
                )
        for kind in self.layer_types or ():
            if kind != "full_attention":
                raise ValueError(
                    f"`layer_types` has {kind!r}, but only 'full_attention' is supported; use "
                    "another checkpoint"
                )
        return self
