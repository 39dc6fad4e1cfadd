"""Decodes of LLaDA and Dream by the loops of dKV-Cache, which caches a token one step late.

    python benchmarks/parity/decode_dkv_cache.py CLONE llada tests/golden/dkv_llada.json
    python benchmarks/parity/decode_dkv_cache.py CLONE dream tests/golden/dkv_dream.json

CLONE is one of horseee/dKV-Cache. Needs transformers 4.46.3. Its code for LLaDA knows no grouped
heads. The greedy loop draws the order of its tokens: here it is drawn beforehand, and stored.
"""

from __future__ import annotations

import itertools
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import decode_common as common
import numpy as np
import torch

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = {
    "repository": "horseee/dKV-Cache",
    "commit": "49a76fc",
    "license": "none",
}
# Width, heads, key and value heads, layers.
LLADA = ((32, 4, None, 2), (32, 2, None, 3), (48, 6, None, 2), (32, 8, None, 2))
DREAM = ((32, 4, 2, 2), (32, 4, 4, 3), (48, 4, 2, 2), (32, 8, 2, 2))
LENGTHS = (1, 3, 5, 8, 11, 13, 16, 21)


def llada_plans() -> list[dict[str, Any]]:
    """Settings by the published names; `loop` says which of the two files decodes."""

    def plan(loop: str, shape: tuple[int, int, int], every: int) -> dict[str, Any]:
        block, gen, steps = shape
        lengths = {"block_length": block, "gen_length": gen, "steps": steps}
        return {"loop": loop, **lengths, "cache_reloading_step": every}

    shapes = ((16, 32, 32), (32, 32, 32), (8, 24, 24), (16, 32, 12), (32, 32, 16), (16, 32, 16))
    found = [plan("decode", *case) for case in itertools.product(shapes, (2, 4, 8, 16))]
    shapes = ((32, 32, 32), (16, 32, 32), (16, 32, 12))
    return found + [
        {**plan("greedy", shape, every), "window_size": window}
        for shape, every, window in itertools.product(shapes, (2, 4, 8), (0, 2, 4))
    ]


def dream_plans() -> list[dict[str, Any]]:
    """Settings by the published names; `pd` has a file and a model of its own."""
    lengths = ((32, 32), (24, 12), (32, 20))
    found = [
        {"cache_type": kind, "shift_type": shift, "cache_steps": every, "steps": steps}
        | {"max_new_tokens": new}
        for (new, steps), kind, shift, every in itertools.product(
            lengths, ("decoded", "pd"), ("un", "un_right"), (2, 4, 8, 16)
        )
    ]
    return found + [
        {"cache_type": "prefill", "steps": steps, "max_new_tokens": new} for new, steps in lengths
    ]


class Published:
    """A published model; counts how many of its cached decodes differ from those without."""

    keys: dict[str, Any]
    model: torch.nn.Module
    differing = 0

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        order = self.order(plan, prompt)
        (plain,) = self.run(plan, prompt, order, cached=False).tolist()
        self.calls.clear()
        (tokens,) = self.run(plan, prompt, order, cached=True).tolist()
        self.differing += plain != tokens
        decoded = {"tokens": tokens[len(prompt) :], **self.calls.taken()}
        return ({"order": order} if order else {}) | decoded | {"rows": self.calls.rows()}

    def order(self, plan: dict[str, Any], prompt: list[int]) -> list[int]:
        """Places in the response as they are to be decoded, where the loop would draw it."""
        del plan, prompt
        return []

    def run(
        self, plan: dict[str, Any], prompt: list[int], order: list[int], *, cached: bool
    ) -> torch.Tensor:
        raise NotImplementedError

    def watch(self, *models: torch.nn.Module) -> None:
        self.calls = common.Calls()
        for model in models:
            self.calls.watch(model)


class LLaDA(Published):
    names = common.LLADA

    def __init__(self, number: int) -> None:
        self.keys = common.llada_keys(number, LLADA[number])
        config = import_module("models.configuration_llada").LLaDAConfig(
            **self.keys, init_device="cpu", flash_attention=False
        )
        self.models = {}
        for loop in ("decode", "greedy"):
            modeling = import_module(f"models.modeling_llada_dkv_cache_{loop}")
            self.models[loop] = common.give_weights(
                modeling.LLaDAModelLM(config, init_params=True),
                common.scales(number) | common.LLADA,
            )
        self.model = self.models["decode"]
        self.probe = common.probe(lambda tokens: self.model(tokens, use_cache=False).logits, 7)
        self.watch(*self.models.values())

    def order(self, plan: dict[str, Any], prompt: list[int]) -> list[int]:
        if plan["loop"] != "greedy":
            return []
        generator = np.random.default_rng(sum(prompt))
        block = plan["block_length"]
        starts = range(0, plan["gen_length"], block)
        return [int(start + at) for start in starts for at in generator.permutation(block)]

    def run(
        self, plan: dict[str, Any], prompt: list[int], order: list[int], *, cached: bool
    ) -> torch.Tensor:
        module = import_module(f"generation_utils.llada_dkv_cache_{plan['loop']}")
        given = {key: value for key, value in plan.items() if key != "loop"}
        ranks = torch.zeros(1, len(prompt) + plan["gen_length"])
        if order:
            ranks[0, torch.tensor(order) + len(prompt)] = torch.linspace(1, 0.5, len(order))
        with patch.object(torch, "rand", lambda *_, **__: ranks.clone()):
            tokens: torch.Tensor = module.generate(
                self.models[plan["loop"]],
                None,
                torch.tensor([prompt]),
                mask_id=common.MASK,
                remasking="random" if order else "low_confidence",
                enable_cache=cached,
                **given,
            )
        return tokens


class Dream(Published):
    def __init__(self, number: int) -> None:
        self.keys = common.qwen_keys("DreamModel", "Dream", number, DREAM[number])
        config = import_module("models.configuration_dream").DreamConfig(
            **self.keys, attn_implementation="sdpa"
        )
        special = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
        ids = {name: self.keys[name] for name in special}
        self.models = {}
        for suffix in ("", "_pd"):
            modeling = import_module(f"models.modeling_dream{suffix}")
            model = common.give_weights(modeling.DreamModel(config), common.scales(number))
            model.generation_config = modeling.DreamGenerationConfig(**ids)
            self.models[suffix] = model
        self.model = self.models[""]
        places = torch.arange(7)[None]
        self.probe = common.probe(
            lambda tokens: self.model(tokens, "full", position_ids=places).logits, 7
        )
        self.watch(*self.models.values())

    def run(
        self, plan: dict[str, Any], prompt: list[int], order: list[int], *, cached: bool
    ) -> torch.Tensor:
        del order
        model = self.models["_pd" if plan["cache_type"] == "pd" else ""]
        tokens: torch.Tensor = model.diffusion_generate(
            torch.tensor([prompt]),
            alg="maskgit_plus",
            temperature=0.0,
            top_k=None,  # else 50, which transformers puts into every model's configuration
            use_cache=cached,
            **plan,
        )
        return tokens


def files(clone: Path, family: str) -> list[Path]:
    names = {
        "llada": ("llada_dkv_cache_decode", "llada_dkv_cache_greedy"),
        "dream": ("dream_generation_utils", "dream_generation_utils_pd", "cache_utils"),
    }[family]
    models = {
        "llada": ("modeling_llada_dkv_cache_decode", "modeling_llada_dkv_cache_greedy"),
        "dream": ("modeling_dream", "modeling_dream_pd"),
    }[family]
    loops = [clone / "generation_utils" / f"{name}.py" for name in names]
    return loops + [clone / "models" / f"{name}.py" for name in models]


def main() -> None:
    clone, family, output = common.paths("clone", "family")
    sys.path.insert(0, str(clone))
    kind, plans = {"llada": (LLaDA, llada_plans), "dream": (Dream, dream_plans)}[family.name]
    models = [kind(number) for number in range(len(LLADA))]
    common.record(output, SOURCE, files(clone, family.name), models, plans(), LENGTHS)
    print(f"{sum(model.differing for model in models)} differ from the decode without a cache")


if __name__ == "__main__":
    main()
