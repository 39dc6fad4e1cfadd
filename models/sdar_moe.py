"""SDAR-MoE (arXiv 2510.06303): SDAR with the experts of Qwen3-MoE, for `JetLM/SDAR-30B-A3B-*`.

Blocks and mask are as in `sdar.py`; the weights of the chosen experts are scaled to sum to one
where `norm_topk_prob` says so.
"""

from __future__ import annotations

from pydantic import Field

from dllmc.models._keys import Size
from dllmc.models._moe import RoutedConfig, RoutedDenoiser
from dllmc.models.sdar import SDARConfig

ARCHITECTURES = ("SDARMoeForCausalLM",)


class SDARMoEConfig(SDARConfig, RoutedConfig):
    """Every `decoder_sparse_step`-th layer has experts, but for those in `mlp_only_layers`."""

    family = "sdar-moe"

    moe_intermediate_size: Size
    norm_topk_prob: bool
    decoder_sparse_step: Size = 1
    mlp_only_layers: list[int] = Field(default_factory=list)

    @property
    def expert_width(self) -> int:
        """Hidden width of an expert."""
        return self.moe_intermediate_size

    @property
    def renormalise(self) -> bool:
        """Whether the weights of the chosen experts are scaled to sum to one."""
        return self.norm_topk_prob

    def routes(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


class SDARMoE(RoutedDenoiser):
    """Block-causal attention; the logits of a row are for its own position."""

    config_type = SDARMoEConfig
