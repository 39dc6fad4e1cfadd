"""What the compiler must know of a denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dllmc.spec.errors import PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence


class DenoiserSpec(BaseModel):
    """The facts of a denoiser that its graph does not tell.

    Attributes:
        mask_id: Token id of `[MASK]`.
        vocab_size: Width of the logits, padding rows of the head included.
        max_length: Longest canvas, prompt and response, in tokens.
        eos_ids: Token ids that end a response.
        attention: `full`, `block_causal` (blocks of `block_length`) or `causal`; the last only
            for an auxiliary model.
        block_length: Length of a block of block-causal attention: a row sees every position up to
            the end of its own block.
        blocks_from: Where blocks are counted from: the `canvas` start (SDAR, LLaDA2, Fast-dLLM
            v2), as the module's own attention mask does; or the `response`, the prompt being one
            block (D2F), where the module attends to everything and the decoder limits what it
            sees.
        logit_shift: 1 where the logits of a row predict the next position (Dream), else 0.
        prompt_slots: Number of slots to which prompts are padded with `pad_id`, or None.
        pad_id: Token id that fills the unused prompt slots.
        family: Name of the architecture, for records that fit a whole family.
        role: `denoiser`, or `auxiliary` for an autoregressive helper.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mask_id: int = Field(ge=0)
    vocab_size: int = Field(gt=1)
    max_length: int = Field(gt=1)
    eos_ids: tuple[int, ...] = ()
    attention: Literal["full", "block_causal", "causal"] = "full"
    block_length: int | None = Field(default=None, gt=0)
    blocks_from: Literal["canvas", "response"] = "canvas"
    logit_shift: Literal[0, 1] = 0
    prompt_slots: int | None = Field(default=None, gt=0)
    pad_id: int | None = Field(default=None, ge=0)
    family: str = "generic"
    role: Literal["denoiser", "auxiliary"] = "denoiser"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = {"mask_id": self.mask_id, "pad_id": self.pad_id or 0}
        ids |= {f"eos_ids[{i}]": eos for i, eos in enumerate(self.eos_ids)}
        for name, value in ids.items():
            if value >= self.vocab_size:
                raise ValueError(f"`{name}`={value} must be under `vocab_size`={self.vocab_size}")
        if self.attention == "causal" and self.role != "auxiliary":
            raise ValueError(
                "`attention`='causal' is not a denoiser; only role='auxiliary' may be causal"
            )
        if (self.attention == "block_causal") != (self.block_length is not None):
            raise ValueError(
                "`block_length` goes with `attention`='block_causal' and only with it"
            )
        if (self.prompt_slots is None) != (self.pad_id is None):
            raise ValueError("`prompt_slots` and `pad_id` go together")
        if self.prompt_slots is not None and self.prompt_slots >= self.max_length:
            raise ValueError(
                f"`prompt_slots`={self.prompt_slots} must be under `max_length`={self.max_length}"
            )
        return self

    @property
    def attention_block(self) -> int | None:
        """Rows in a block that see alike and nothing after it: 1 with causal attention.

        None with full attention.
        """
        return 1 if self.attention == "causal" else self.block_length

    def prepare_prompt(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The prompt as it stands on the canvas, padded to `prompt_slots` where there are any.

        Args:
            prompt: Token ids.
            max_new_tokens: Length of the response in tokens.

        Raises:
            PromptError: The prompt is empty, too long, or has an id that is no token or the mask.
        """
        if not prompt:
            raise PromptError("the prompt is empty; give at least one token")
        if max_new_tokens < 1:
            raise PromptError(f"`max_new_tokens`={max_new_tokens} must be at least 1")
        for index, token in enumerate(prompt):
            if not 0 <= token < self.vocab_size:
                raise PromptError(
                    f"token {token} at position {index} of the prompt is not in the vocabulary "
                    f"of {self.vocab_size} tokens"
                )
            if token == self.mask_id:
                raise PromptError(
                    f"the prompt contains the mask token {token} at position {index}; only the "
                    "response may be masked, remove it"
                )
        padded = list(prompt)
        if self.prompt_slots is not None and self.pad_id is not None:
            if len(prompt) > self.prompt_slots:
                raise PromptError(
                    f"the prompt has {len(prompt)} tokens and the model has {self.prompt_slots} "
                    "prompt slots; shorten it"
                )
            padded += [self.pad_id] * (self.prompt_slots - len(prompt))
        room = self.max_length - len(padded)
        if max_new_tokens > room:
            remedies = ["shorten the prompt"] if self.prompt_slots is None else []
            remedies += [f"ask for at most {room} tokens"] if room > 0 else []
            raise PromptError(
                f"{len(padded)} prompt tokens and `max_new_tokens`={max_new_tokens} exceed the "
                f"model's maximum of {self.max_length}; {' or '.join(remedies)}"
            )
        return padded
