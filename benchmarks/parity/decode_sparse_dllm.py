"""Decodes of LLaDA and Dream by the loops of Sparse-dLLM, whose cache keeps what a block looks at.

    python benchmarks/parity/decode_sparse_dllm.py CLONE llada tests/golden/sparse_llada.json
    python benchmarks/parity/decode_sparse_dllm.py CLONE dream tests/golden/sparse_dream.json

CLONE is one of OpenMOSS/Sparse-dLLM. Needs transformers 4.46.3. Pooling gives neighbours the same
importance, and which of them `torch.topk` keeps is left open: here the first, by a stable sort.
`kept` holds, per layer, the positions that the last block kept.
"""

from __future__ import annotations

import functools
import itertools
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import decode_common as common
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = {
    "repository": "OpenMOSS/Sparse-dLLM",
    "commit": "3fd8986",
    "license": "none",
}
FOLDER = "opencompass/models/sparse_dllm"
# Width, heads, key and value heads, layers.
LLADA = ((32, 4, None, 2), (32, 4, 2, 3), (48, 6, 2, 2), (32, 8, None, 2))
DREAM = ((32, 4, 2, 2), (32, 4, 4, 3), (48, 4, 2, 2), (32, 8, 2, 2))
LENGTHS = (1, 5, 8, 11, 16, 21, 29)
# Block, response, steps.
SHAPES = ((8, 32, 32), (16, 48, 24), (8, 24, 6), (16, 32, 32))


def plans(family: str) -> Iterator[dict[str, Any]]:
    """Settings by the published names."""
    length = {"llada": "gen_length", "dream": "max_new_tokens"}[family]
    kept = [(ratio, kernel) for ratio in (0.2, 0.5, 0.7) for kernel in (1, 3, 5)]
    for (block, new, steps), (ratio, kernel) in itertools.product(
        SHAPES, [*kept, (1.0, 3), (0.5, None), (0.01, 3)]
    ):
        yield {"block_length": block, length: new, "steps": steps} | {
            "keep_ratio": ratio,
            "kernel_size": kernel,
        }


def first_of_equals(
    values: torch.Tensor, k: int, dim: int = -1
) -> tuple[torch.Tensor, torch.Tensor]:
    found = values.sort(dim=dim, descending=True, stable=True)
    return found.values[..., :k], found.indices[..., :k]


class Published:
    """A published model; counts its decodes by what the choice of what to keep does to them."""

    keys: dict[str, Any]
    model: torch.nn.Module
    caches: Any

    def prepare(self) -> None:
        self.calls = common.Calls()
        self.calls.watch(self.model)
        self.kept: dict[int, list[int]] = {}
        self.of_ties = self.of_ratio = 0

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        whole = self.run(plan | {"keep_ratio": 1.0}, prompt)
        open_ties = self.run(plan, prompt)
        self.calls.clear()
        with patch.object(self.caches.CustomCache, "filter_cache", self.stable()):
            tokens = self.run(plan, prompt)
        self.of_ratio += tokens != whole
        self.of_ties += tokens != open_ties
        kept = [self.kept[layer] for layer in sorted(self.kept)]
        return {"tokens": tokens, **self.calls.taken(), "rows": self.calls.rows(), "kept": kept}

    def stable(self) -> Any:
        """The published choice with ties to the first, and a note of the positions."""
        publish = self.caches.CustomCache.filter_cache

        def filter_cache(cache: Any, layer: int, query: Any, start: int, block: int) -> None:
            def noted(values: torch.Tensor, k: int, dim: int) -> Any:
                found = first_of_equals(values, k, dim)
                chosen = found[1][0].sort().values
                self.kept[layer] = torch.where(chosen < start, chosen, chosen + block).tolist()
                return found

            with patch.object(torch, "topk", noted):
                publish(cache, layer, query, start, block)

        return filter_cache

    def run(self, plan: dict[str, Any], prompt: list[int]) -> list[int]:
        given = dict(plan)
        block, ratio = given["block_length"], given.pop("keep_ratio")
        kernel = given.pop("kernel_size")
        for part in self.model.modules():
            if hasattr(part, "config"):
                part.config.block_len = block
                part.config.keep_ratio, part.config.kernel_size = ratio, kernel
        (tokens,) = self.generate(torch.tensor([prompt]), given).tolist()
        return tokens[len(prompt) :]

    def generate(self, prompt: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError


class LLaDA(Published):
    names = common.LLADA

    def __init__(self, number: int) -> None:
        self.caches = import_module("published.modeling_llada")
        self.keys = common.llada_keys(number, LLADA[number])
        config = import_module("published.configuration_llada").LLaDAConfig(
            **self.keys, init_device="cpu", flash_attention=False
        )
        self.model = common.give_weights(
            self.caches.LLaDAModelLM(config, init_params=True),
            common.scales(number) | common.LLADA,
        )
        self.probe = common.probe(lambda tokens: self.model(tokens, 0, 0, None).logits, 7)
        self.prepare()

    def generate(self, prompt: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
        loop = import_module("published.llada_generate").generate
        tokens: torch.Tensor = loop(self.model, prompt, mask_id=common.MASK, **given)
        return tokens


class Dream(Published):
    def __init__(self, number: int) -> None:
        modeling = import_module("published.dream.modeling_dream")
        self.caches = import_module("published.dream.generation_utils")
        self.keys = common.qwen_keys("DreamModel", "Dream", number, DREAM[number])
        config = import_module("published.dream.configuration_dream").DreamConfig(
            **self.keys, attn_implementation="sdpa"
        )
        self.model = common.give_weights(modeling.DreamModel(config), common.scales(number))
        special = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
        ids = {name: self.keys[name] for name in special}
        self.model.generation_config = modeling.DreamGenerationConfig(**ids)
        self.probe = common.probe(
            lambda tokens: self.model(0, 0, None, input_ids=tokens, attention_mask="full").logits,
            7,
        )
        self.prepare()

    def generate(self, prompt: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
        """Blocks of other lengths than 32 can be asked for in `_sample` alone."""
        block = given.pop("block_length")
        for part in self.model.modules():
            if hasattr(part, "block_len"):
                part.block_len = block
        sample = functools.partial(self.model._sample, block_length=block)
        with patch.object(self.model, "_sample", sample):
            tokens: torch.Tensor = self.model.diffusion_generate(
                prompt, alg="maskgit_plus", temperature=0.0, top_k=None, **given
            )
        return tokens


def files(folder: Path, family: str) -> list[Path]:
    names = {
        "llada": ("llada_generate", "modeling_llada"),
        "dream": ("dream/generation_utils", "dream/modeling_dream", "dream/Cache"),
    }[family]
    return [folder / f"{name}.py" for name in names]


def main() -> None:
    clone, family, output = common.paths("clone", "family")
    common.package("published.dream", clone / FOLDER / "dream")
    kind = {"llada": LLaDA, "dream": Dream}[family.name]
    models = [kind(number) for number in range(len(LLADA))]
    settings = list(plans(family.name))
    common.record(output, SOURCE, files(clone / FOLDER, family.name), models, settings, LENGTHS)
    print(f"{sum(model.of_ratio for model in models)} differ from keeping everything")
    print(f"{sum(model.of_ties for model in models)} differ from ties left to `torch.topk`")


if __name__ == "__main__":
    main()
