"""The keys of a published LLaDA `config.json`, and a refusal of what the denoiser does not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dllmc.models._keys import Size, TokenId, ids_of, one_line, refuse_others
from dllmc.spec import CheckpointError, DenoiserSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys that would change the network, with the values for which it is the one in llada.py.
_ONLY: dict[str, tuple[object, ...]] = {
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1,),
    "block_type": ("llama",),
    "clip_qkv": (None,),
    "include_bias": (False,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (False, None),
    "rope": (True,),
    "scale_logits": (False,),
}


class LLaDAConfig(BaseModel):
    """The keys that shape the network; others, such as `transformers_version`, are ignored.

    A key whose default would silently be wrong for some checkpoint is required, so that a
    misspelt key shows as a missing one.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    d_model: Size
    n_heads: Size
    n_layers: Size
    vocab_size: Annotated[int, Field(gt=1)]
    max_sequence_length: Annotated[int, Field(gt=1)]
    mask_token_id: TokenId
    rms_norm_eps: Annotated[float, Field(gt=0)]
    rope_theta: Annotated[float, Field(gt=0)]
    mlp_hidden_size: Size | None = None
    mlp_ratio: Size | None = None
    n_kv_heads: Size | None = None
    embedding_size: Size | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | None = None
    weight_tying: bool = False
    include_qkv_bias: bool = False
    prompt_slots: Size | None = None
    """Not a published key: prompts are padded with `pad_token_id` to so many slots."""

    @classmethod
    def parse(cls, keys: Mapping[str, object]) -> LLaDAConfig:
        """Validate the keys of `config.json`.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        refuse_others(keys, _ONLY)
        try:
            return cls.model_validate(keys)
        except ValidationError as error:
            raise CheckpointError(one_line(error)) from error

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; fewer than of queries with grouped-query attention."""
        return self.n_kv_heads or self.n_heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the feed-forward part."""
        return self.mlp_hidden_size or (self.mlp_ratio or 0) * self.d_model

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and of the head: the vocabulary with its padding."""
        return self.embedding_size or self.vocab_size

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return ids_of(self.eos_token_id)

    def spec(self) -> DenoiserSpec:
        """What the compiler must know beside the graph."""
        return DenoiserSpec(
            mask_id=self.mask_token_id,
            vocab_size=self.embedding_rows,
            max_length=self.max_sequence_length,
            eos_ids=self.eos_ids,
            prompt_slots=self.prompt_slots,
            pad_id=self.pad_token_id if self.prompt_slots else None,
            family="llada",
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"`n_heads`={self.n_heads} must divide `d_model`={self.d_model}")
        if self.head_dim % 2:
            raise ValueError(
                f"`d_model`/`n_heads`={self.head_dim} must be even for rotary positions"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"`n_kv_heads`={self.kv_heads} must divide `n_heads`={self.n_heads}")
        if not self.mlp_width:
            raise ValueError("`mlp_hidden_size` and `mlp_ratio` are missing; give one")
        if self.embedding_rows < self.vocab_size:
            raise ValueError(
                f"`embedding_size`={self.embedding_size} must not be under "
                f"`vocab_size`={self.vocab_size}"
            )
        ids = {"mask_token_id": (self.mask_token_id,), "eos_token_id": self.eos_ids}
        if self.pad_token_id is not None:
            ids["pad_token_id"] = (self.pad_token_id,)
        for key, values in ids.items():
            if max(values, default=0) >= self.embedding_rows:
                raise ValueError(
                    f"`{key}`={max(values)} must be under the vocabulary size, "
                    f"{self.embedding_rows}"
                )
        if self.prompt_slots is not None and self.pad_token_id is None:
            raise ValueError(f"`prompt_slots`={self.prompt_slots} needs a `pad_token_id`")
        if (self.prompt_slots or 0) >= self.max_sequence_length:
            raise ValueError(
                f"`prompt_slots`={self.prompt_slots} must be under "
                f"`max_sequence_length`={self.max_sequence_length}"
            )
        return self
