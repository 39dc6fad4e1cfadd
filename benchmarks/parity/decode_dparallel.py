"""Decodes by dParallel's rule, which commits every token of low entropy: LLaDA and Dream.

    python benchmarks/parity/decode_dparallel.py CLONE LLaDA tests/golden/dparallel.json
    python benchmarks/parity/decode_dparallel.py CLONE Dream tests/golden/dparallel_dream.json

CLONE is one of czg1225/dParallel. Needs transformers 4.49.
"""

from __future__ import annotations

import itertools
import sys
import types
from typing import TYPE_CHECKING, Any, ClassVar

import decode_common as common
import decode_tiny as tiny

if TYPE_CHECKING:
    import torch
    from torch import nn

SOURCE = {
    "repository": "czg1225/dParallel",
    "commit": "2ca4d147641e02c30c7564222683d7b8eb0394c0",
    "license": "MIT",
}
BLOCKS = ((8, 32), (16, 48), (32, 32))
THRESHOLDS = (0.5, 0.45, 1.0, 1.5, 2.5)
DREAM = ((32, 4, 2, 2), (32, 4, 4, 2), (48, 4, 2, 3), (32, 8, 2, 2))
LOOPS = {
    "none": "generate",
    "prefix": "generate_with_prefix_cache",
    "dual": "generate_with_dual_cache",
}


def llada_plans() -> list[dict[str, Any]]:
    """Settings by the published names; `cache` says which of the loops decodes."""
    return [
        {"cache": cache, "threshold": threshold, "block_length": block, "gen_length": gen}
        for (block, gen), threshold, cache in itertools.product(BLOCKS, THRESHOLDS, LOOPS)
    ]


def dream_plans() -> list[dict[str, Any]]:
    found = [
        {"threshold": threshold, "block_length": block, "max_new_tokens": gen}
        for (block, gen), threshold in itertools.product(BLOCKS, THRESHOLDS)
    ]
    return found * 2


class LLaDA(tiny.Cached):
    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        alone = self.run(plan | {"threshold": -1.0}, prompt)
        return self.compare(self.run(plan, prompt), alone)

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        import generate

        given = {key: value for key, value in plan.items() if key != "cache"}
        given |= {"mask_id": common.MASK, "steps": plan["gen_length"]}

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            found: tuple[torch.Tensor, int] = getattr(generate, LOOPS[plan["cache"]])(
                self.model, tokens, **given
            )
            return found

        return self.counted(loop, prompt)


class Dream(tiny.Tiny):
    names: ClassVar[dict[str, str]] = {}

    def __init__(self, number: int) -> None:
        from model.generation_utils_semiar import DreamGenerationConfig, DreamGenerationMixin

        super().__init__(number)
        special = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
        ids = {name: self.keys[name] for name in special}
        self.model.generation_config = DreamGenerationConfig(**ids)
        for name in ("diffusion_generate", "_sample"):
            method = types.MethodType(getattr(DreamGenerationMixin, name), self.model)
            setattr(self.model, name, method)

    def keys_of(self, number: int) -> dict[str, Any]:
        return common.qwen_keys("DreamModel", "Dream", number, DREAM[number])

    def build(self) -> nn.Module:
        from model.configuration_dream import DreamConfig
        from model.modeling_dream import DreamModel

        model: nn.Module = DreamModel(DreamConfig(**self.keys, attn_implementation="sdpa"))
        return model

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(tokens, "full").logits
        return found

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        alone = self.run(plan | {"threshold": -1.0}, prompt)
        return self.compare(self.run(plan, prompt), alone)

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            found: tuple[torch.Tensor, int] = self.model.diffusion_generate(
                tokens,
                alg="entropy_threshold",
                temperature=0.0,
                top_k=None,
                steps=plan["max_new_tokens"],
                **plan,
            )
            return found

        return self.counted(loop, prompt)


def main() -> None:
    clone, family, output = common.paths("clone", "family")
    common.stand_in("einops", rearrange=None)
    folder = clone / family.name
    sys.path.insert(0, str(folder))
    kind, plans, files = {
        "LLaDA": (LLaDA, llada_plans(), ("generate", "model/modeling_llada")),
        "Dream": (Dream, dream_plans(), ("model/generation_utils_semiar", "model/modeling_dream")),
    }[family.name]
    models = [kind(number) for number in range(len(tiny.SHAPES))]
    sources = [folder / f"{name}.py" for name in files]
    common.record(output, SOURCE, sources, models, plans, tiny.LENGTHS)
    tiny.tell_changed(models, len(plans), "several tokens at once")


if __name__ == "__main__":
    main()
