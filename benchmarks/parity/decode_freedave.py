"""Decodes by FreeDave, which drafts several steps of its own loop and verifies them at once.

    python benchmarks/parity/decode_freedave.py CLONE llada MODEL tests/golden/freedave_llada.json
    python benchmarks/parity/decode_freedave.py CLONE dream MODEL tests/golden/freedave_dream.json
    python benchmarks/parity/decode_freedave.py CLONE sdar MODEL tests/golden/freedave_sdar.json

CLONE is one of cychomatica/FreeDave; MODEL holds the published model: CLONE/modeling/llada,
`dllm/pipelines/dream/models` of ZHZisZZ/dllm, `training/model/SDAR-4B-Chat` of JetAstra/SDAR.
Needs transformers 4.52.4, deprecated and einops. Every case decodes with drafts in a batch and in
a tree, which must agree; `drafts` says how many each evaluation had. `plain` is what the loop
without drafts returned, tokens only where they differ.
"""

from __future__ import annotations

import itertools
import sys
from importlib import import_module
from typing import Any

import decode_common as common
import decode_sdar
import torch

SOURCE = {
    "repository": "cychomatica/FreeDave",
    "commit": "8b48121",
    "license": "Apache-2.0",
}
LENGTHS = (1, 3, 5, 8, 11, 13, 16, 21)
# Width, heads, key and value heads, layers.
LLADA = ((32, 4, None, 2), (32, 4, 2, 3), (48, 6, 2, 2), (32, 8, None, 2))
DREAM = ((32, 4, 2, 2), (32, 4, 4, 3), (48, 4, 2, 2), (32, 8, 2, 2))
MODES = ("batch_expanding", "tree_attention")


def plans(family: str) -> list[dict[str, Any]]:
    """Settings by the published names."""
    blocks, caches = ((8, 24), (16, 32)), ({"dual_cache": False}, {"dual_cache": True})
    if family == "sdar":
        blocks, caches = ((4, 20), (8, 24)), ({}, {"eager_acceptance_mode": True})
    rules = [{}, {"confidence_threshold": 0.5}]
    others = [{"confidence_threshold": 0.9}, {"confidence_threshold": 0.25}]
    wanted = [*itertools.product(blocks, (1, 2, 4, 8), caches, rules)]
    wanted += itertools.product(blocks, (3, 5), caches, others)
    return [
        {"block_length": block, "max_gen_length": new, "draft_steps": drafts, **cache, **rule}
        for (block, new), drafts, cache, rule in wanted
    ]


class Counted(common.Calls):
    """Also notes how many drafts an evaluation had: rows of a batch, or branches of a tree."""

    def __init__(self) -> None:
        super().__init__(lambda call: "store" if call.get("store_kv") else "denoise")
        self.shapes: list[tuple[int, ...]] = []

    def watch(self, model: torch.nn.Module) -> torch.nn.Module:
        super().watch(model)
        counted = model.forward

        def shaped(*args: Any, **kwargs: Any) -> Any:
            self.shapes.append(tuple(kwargs["input_ids"].shape))
            return counted(*args, **kwargs)

        model.forward = shaped
        return model

    def clear(self) -> None:
        super().clear()
        self.shapes.clear()


class Published:
    """A published model; counts decodes that took fewer evaluations or differ from the plain."""

    fewer = differing = 0

    def __init__(self, family: str, number: int) -> None:
        self.family = family
        if family == "llada":
            self.names = common.LLADA
            self.keys = common.llada_keys(number, LLADA[number])
            config = import_module("published.configuration_llada").LLaDAConfig(
                **self.keys, init_device="cpu", flash_attention=False
            )
            model = import_module("published.modeling_llada").LLaDAModelLM(
                config, init_params=True
            )
        elif family == "dream":
            self.keys = common.qwen_keys("DreamModel", "Dream", number, DREAM[number])
            config = import_module("published.configuration_dream").DreamConfig(
                **self.keys, attn_implementation="sdpa"
            )
            model = import_module("published.modeling_dream").DreamModel(config)
        else:
            self.keys = decode_sdar.keys(number)
            config = import_module("published_sdar.configuration_sdar").SDARConfig(
                **self.keys, fuse_cross_entropy=False
            )
            model = import_module("published_sdar.modeling_sdar").SDARForCausalLM(config)
        self.model = common.give_weights(model, common.scales(number) | getattr(self, "names", {}))
        length = 3 if family == "sdar" else 7
        mask = torch.ones(1, length, length) if family == "sdar" else None
        self.probe = common.probe(
            lambda tokens: self.model(input_ids=tokens, attention_mask=mask).logits, length
        )
        self.calls = Counted()
        self.calls.watch(self.model)
        generation = import_module("generation").DLMGeneration
        # This code of Dream, unlike the one that comes with its weights, adds nothing to scores.
        self.loops = generation(sdpa_additive_attention_mask=family == "llada")

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        attention = "block" if self.family == "sdar" else "full"
        drafting = f"block_decode_with_{attention}_attention_FreeDave"
        batch = self.run(drafting, prompt, draft_mode=MODES[0], **plan)
        drafts = [rows for rows, _ in self.calls.shapes]
        tree = self.run(drafting, prompt, draft_mode=MODES[1], **plan)
        assert tree == batch
        given = plan | {"decoding_steps": plan["max_gen_length"]}
        for name in ("draft_steps", "eager_acceptance_mode"):
            given.pop(name, None)
        plain = self.run(drafting.removesuffix("_FreeDave"), prompt, **given)
        self.fewer += batch["nfe"] < plain["nfe"]
        self.differing += batch["tokens"] != plain["tokens"]
        if plain["tokens"] == batch["tokens"]:
            del plain["tokens"]
        return {**batch, "drafts": drafts, "plain": plain}

    def run(self, loop: str, prompt: list[int], **given: Any) -> dict[str, Any]:
        self.calls.clear()
        found = getattr(self.loops, loop)(
            self.model,
            torch.tensor([prompt]),
            use_cache=True,
            mask_token_id=common.MASK,
            eos_token_id=common.EOS,
            pad_token_id=common.PAD,
            **given,
        )
        return {"tokens": found.sequences[0, len(prompt) :].tolist(), **self.calls.taken()}


def main() -> None:
    clone, family, folder, output = common.paths("clone", "family", "model")
    sys.path.insert(0, str(clone))
    if family.name == "sdar":
        decode_sdar.stand_ins()
    common.package("published_sdar" if family.name == "sdar" else "published", folder)
    models = [Published(family.name, number) for number in range(4)]
    files = [clone / "generation" / f"{name}.py" for name in ("core", "attn_utils", "cache_utils")]
    files.append(folder / f"modeling_{family.name}.py")
    common.record(output, SOURCE, files, models, plans(family.name), LENGTHS)
    print(f"{sum(model.fewer for model in models)} take fewer evaluations than the plain loop")
    print(f"{sum(model.differing for model in models)} have other tokens")


if __name__ == "__main__":
    main()
