"""Decodes of LLaDA by dInfer: its decoders, its vicinity cache and its smoothed iterations.

    python benchmarks/parity/decode_dinfer.py CLONE/python/dinfer credit tests/golden/credit.json

The second word is one of the keys of `KINDS`. CLONE is one of inclusionAI/dInfer. Needs
transformers 4.49; vLLM, which only splits models over GPUs, has a stand-in. The dense LLaDA lacks
the soft embedding that smoothed iterations need, so that of its LLaDA-MoE is given to it.
"""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Optional

import decode_common as common
import decode_tiny as tiny
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

SOURCE = {
    "repository": "inclusionAI/dInfer",
    "commit": "fce4e32804103baa5d55230dff0352da0cdd6ceb",
    "license": "Apache-2.0",
}
BLOCKS = ((8, 32), (16, 48), (32, 32))
CACHES = (None, "prefix", "dual")


@dataclass(frozen=True)
class Kind:
    """What a file holds: settings by the published names, and those that undo the rule."""

    rule: str
    plans: Callable[[], list[dict[str, Any]]]
    undone: dict[str, Any]


def crossed(*settings: list[dict[str, Any]], blocks: tuple[tuple[int, int], ...] = BLOCKS) -> Any:
    """Every combination of the settings, for every length of block and response."""
    lengths = [{"block_length": block, "gen_length": gen} for block, gen in blocks]
    for parts in itertools.product(lengths, *settings):
        yield {name: value for part in parts for name, value in part.items()}


def credit() -> list[dict[str, Any]]:
    fused = [
        {"credit_alpha": alpha, "boost_gamma": gamma, "decay_beta": beta, "threshold": threshold}
        for alpha, gamma, beta, threshold in (
            (0.7, 0.2, 0.8, 0.9),
            (0.7, 0.2, 0.8, 0.6),
            (1.5, 0.5, 0.65, 0.8),
            (0.3, 1.0, 0.4, 0.5),
            (2.5, 0.2, 0.95, 0.95),
        )
    ]
    decoder = [{"decoder": "credit"}]
    return list(crossed(decoder, fused, [{"cache": cache} for cache in CACHES]))


def hierarchy() -> list[dict[str, Any]]:
    found = [
        {"decoder": "hierarchy", "threshold": threshold, "low_threshold": low}
        for threshold, low in ((None, 0.4), (0.92, 0.62), (0.8, 0.5), (0.6, 0.2), (0.5, None))
    ]
    return list(crossed(found, [{"cache": cache} for cache in CACHES]))


def vicinity() -> list[dict[str, Any]]:
    windows = [
        {"prefix_look": before, "after_look": after, "warmup_steps": warmup}
        for before, after, warmup in ((16, 16, 4), (4, 4, 0), (0, 8, 2), (8, 0, 1), (0, 0, 0))
    ]
    found = [{"decoder": "threshold", "threshold": threshold} for threshold in (0.9, 0.5)]
    return list(crossed(windows, found, [{"cache": "dual"}])) * 2


def runner() -> list[dict[str, Any]]:
    found = [
        {"decoder": "threshold", "threshold": 0.5, "early_stop": True},
        {"decoder": "threshold", "threshold": 0.9, "early_stop": True},
        {"decoder": "threshold", "threshold": 0.6, "maximum_unroll": 4},
    ]
    refreshed = [
        {"decoder": "threshold", "threshold": 0.6, "cache_update_freq": every} for every in (2, 4)
    ]
    caches = [{"cache": cache} for cache in CACHES]
    return [*crossed(found, caches), *crossed(refreshed, caches[1:])]


def smooth() -> list[dict[str, Any]]:
    weights = [
        {"cont_weight": most, "cont_weight_init": first, "cont_weight_growth": growth}
        | {"threshold_decay": decay, "threshold": threshold}
        for most, first, growth, decay, threshold in (
            (0.3, 0.15, 0.02, 0.02, 0.9),
            (0.3, 0.15, 0.02, 0.1, 0.5),
            (0.6, 0.3, 0.05, 0.04, 0.7),
        )
    ]
    near = {"prefix_look": 4, "after_look": 4, "warmup_steps": 3}
    caches = [{"cache": cache} for cache in CACHES] + [{"cache": "dual", **near}]
    return list(crossed([{"decoder": "threshold"}], weights, caches))


KINDS = {
    "credit": Kind("credit", credit, {"decoder": "threshold"}),
    "hierarchy": Kind("a token of each run of masks", hierarchy, {"decoder": "threshold"}),
    "vicinity": Kind("a window beyond the block", vicinity, {"prefix_look": None}),
    "dinfer_runner": Kind(
        "ending, unrolling, refreshing",
        runner,
        {"early_stop": False, "maximum_unroll": 1, "cache_update_freq": None},
    ),
    "smooth": Kind("soft embeddings", smooth, {"cont_weight": None}),
}
DECODERS = {
    "threshold": ("ThresholdParallelDecoder", ("threshold",)),
    "credit": (
        "CreditThresholdParallelDecoder",
        ("threshold", "credit_alpha", "boost_gamma", "decay_beta"),
    ),
    "hierarchy": ("HierarchyDecoder", ("threshold", "low_threshold")),
}
ONE_GPU: dict[str, Any] = {
    "get_tensor_model_parallel_rank": lambda: 0,
    "get_tensor_model_parallel_world_size": lambda: 1,
}
WINDOW = ("prefix_look", "after_look", "warmup_steps")
SMOOTH = ("cont_weight", "cont_weight_init", "cont_weight_growth", "threshold_decay")


def soft_embedding(file: Path) -> type[Any]:
    """The class of the published file, the rest of which needs vLLM's kernels."""
    tree = ast.parse(file.read_text())
    (found,) = (node for node in tree.body if getattr(node, "name", "") == "H2Embed")
    space = {"torch": torch, "nn": torch.nn, "Optional": Optional, **ONE_GPU}
    exec(compile(ast.Module([found], []), str(file), "exec"), space)
    kind: type[Any] = space["H2Embed"]
    return kind


class Published(tiny.Cached):
    kind: ClassVar[Kind]
    embedding: ClassVar[type[Any]]

    def build(self) -> nn.Module:
        from dinfer.model import modeling_llada as published
        from dinfer.model.configuration_llada import LLaDAConfig

        config = LLaDAConfig(**self.keys, flash_attention=False)
        inner = published.create_model_config_from_pretrained_config(config)
        inner.init_device = "cpu"
        body = published.LLaDAModel(inner, init_params=True)
        model: nn.Module = published.LLaDAModelLM(config, body)
        model.h2e = self.embedding(body.transformer.wte)
        return model

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        plain = self.run(plan | self.kind.undone, prompt)
        ending = {}
        if plan.get("early_stop"):
            response = plain["tokens"]
            ending = {"eos_id": response[len(response) // 2]}
        return ending | self.compare(self.run(plan | ending, prompt), plain)

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        decoding = self.decoding(plan)

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            found = decoding.generate(tokens, plan["gen_length"], plan["block_length"])
            return found, decoding.num_forwards

        return self.counted(loop, prompt)

    def decoding(self, plan: dict[str, Any]) -> Any:
        """The published object that decodes so."""
        from dinfer.decoding import generate_uniform, parallel_strategy, utils

        def chosen(*names: str) -> dict[str, Any]:
            return {name: plan[name] for name in names if plan.get(name) is not None}

        name, settings = DECODERS[plan["decoder"]]
        end = plan.get("eos_id", common.VOCABULARY)
        given = {setting: plan[setting] for setting in settings}
        decoder = getattr(parallel_strategy, name)(
            temperature=0.0, mask_id=common.MASK, eos_id=end, **given
        )
        cache = plan["cache"] and utils.KVCacheFactory(
            plan["cache"], **chosen("cache_update_freq")
        )
        near, smooth = plan.get("prefix_look") is not None, plan.get("cont_weight") is not None
        kind = {
            (False, False): "BlockWise",
            (True, False): "VicinityCache",
            (False, True): "IterSmooth",
            (True, True): "IterSmoothWithVicinityCache",
        }[near, smooth]
        return getattr(generate_uniform, f"{kind}DiffusionLLM")(
            self.model,
            decoder,
            utils.BlockIteratorFactory(),
            cache_factory=cache,
            early_stop=plan.get("early_stop", False),
            maximum_unroll=plan.get("maximum_unroll", 1),
            **(chosen(*WINDOW) if near else {}),
            **(chosen(*SMOOTH) if smooth else {}),
        )


def load(folder: Path) -> None:
    """Makes the published package importable without its `__init__`, and keeps ends of text."""
    common.stand_in("einops", rearrange=None)
    common.stand_in("vllm")
    common.stand_in("vllm.distributed", **ONE_GPU)
    common.package("dinfer.decoding", folder / "decoding")
    common.package("dinfer.model", folder / "model")
    from dinfer.decoding import utils

    # With one prompt it would leave the tokens out that end a text.
    utils.TokenArray.get_generated_tokens = lambda array: array.data


def main() -> None:
    folder, word, output = common.paths("dinfer", "kind")
    load(folder)
    Published.kind = kind = KINDS[word.name]
    Published.embedding = soft_embedding(folder / "model/modeling_fused_olmoe.py")
    models = [Published(number) for number in range(len(tiny.SHAPES))]
    names = ("generate_uniform", "parallel_strategy", "utils")
    files = [folder / "decoding" / f"{name}.py" for name in names]
    files += [folder / "model" / f"modeling_{name}.py" for name in ("llada", "fused_olmoe")]
    plans = kind.plans()
    common.record(output, SOURCE, files, models, plans, tiny.LENGTHS)
    tiny.tell_changed(models, len(plans), kind.rule)


if __name__ == "__main__":
    main()
