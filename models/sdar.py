"""SDAR (arXiv 2510.06303): Qwen3 that denoises block after block, for `JetLM/SDAR-*`.

Blocks are counted from the canvas start; a row sees everything up to the end of its own block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Self

from dllmc.models._keys import Size, TokenId
from dllmc.models._qwen import QwenDenoiser
from dllmc.models._qwen_config import QwenConfig

ARCHITECTURES = ("SDARForCausalLM",)
_NAMED = re.compile(r"SDAR-.*-b(?P<block>4|8|16|32|64)")


class SDARConfig(QwenConfig):
    """Head by head normalisation of Q and K; the width of a head is a key of its own.

    Not every published `config.json` says what the mask and the blocks are. Then the mask is that
    of the published tokenizer, and the blocks are those of the checkpoint's name (32 for
    `SDAR-8B-Chat-b32`), or else 4, as the published decoder takes them. For a checkpoint of
    another name trained with longer blocks write its `block_size` into `config.json`.
    """

    family = "sdar"
    qk_norm = True
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"attention_bias": (False, None)}

    head_dim: Size
    block_size: Size = 4
    mask_token_id: TokenId = 151669

    @classmethod
    def parse(cls, keys: Mapping[str, object]) -> Self:
        """Validate the keys of `config.json`, and `names`, those of the checkpoint.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        names = keys.get("names")
        named = [_NAMED.fullmatch(str(name)) for name in names] if isinstance(names, list) else []
        blocks = [{"block_size": int(found["block"])} for found in named if found]
        return super().parse({**(blocks[0] if blocks else {}), **keys})

    @property
    def block_length(self) -> int:
        """Length of a block of block-causal attention."""
        return self.block_size


class SDAR(QwenDenoiser):
    """Block-causal attention; the logits of a row are for its own position."""

    config_type = SDARConfig
