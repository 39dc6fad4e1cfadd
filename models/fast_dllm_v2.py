"""Fast-dLLM v2 (arXiv 2509.26328): Qwen2.5 that denoises block after block.

For `Efficient-Large-Model/Fast_dLLM_v2_*`. Blocks are counted from the canvas start; a row sees
everything up to the end of its own block.
"""

from __future__ import annotations

from dllmc.models._keys import Size, TokenId
from dllmc.models._qwen import QwenDenoiser
from dllmc.models._qwen_config import QwenConfig

ARCHITECTURES = ("Fast_dLLM_QwenForCausalLM",)


class FastDLLMv2Config(QwenConfig):
    """Q, K and V have biases; a row predicts the next position.

    The mask and the token that ends a response are arguments of the published decoder and not
    always keys of `config.json`: its values stand in for them.
    """

    family = "fast_dllm_v2"
    qkv_bias = True
    logit_shift = 1

    bd_size: Size = 32
    mask_token_id: TokenId = 151665
    eos_token_id: TokenId | list[TokenId] | None = 151645

    @property
    def block_length(self) -> int:
        """Length of a block of block-causal attention."""
        return self.bd_size


class FastDLLMv2(QwenDenoiser):
    """Block-causal attention; the logits of a row are for the next position."""

    config_type = FastDLLMv2Config
