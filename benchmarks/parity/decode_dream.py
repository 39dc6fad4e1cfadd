"""Decodes of Dream by Fast-dLLM v1: blocks with prefix and dual cache, and the loop without cache.

    python benchmarks/parity/decode_dream.py CLONE/v1/dream tests/golden/dream.json

Needs transformers 4.49.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import types
from typing import Any

import decode_common as common
import torch

SOURCE = {
    "repository": "NVlabs/Fast-dLLM",
    "commit": "a9b81e4caa240c8cad4f7dc1889ff4852a0fca5b",
    "license": "Apache-2.0",
}
# Width, heads, key and value heads, layers
SHAPES = ((32, 4, 2, 2), (32, 4, 4, 2), (48, 4, 2, 3), (32, 8, 2, 2))
LENGTHS = (3, 5, 8, 11, 13, 16, 21, 24, 31, 32)


def keys(number: int) -> dict[str, Any]:
    return common.qwen_keys("DreamModel", "Dream", number, SHAPES[number])


def plans() -> list[dict[str, Any]]:
    """Settings by the published names; `cache` says which of the two files decodes."""
    cached = [
        {
            "cache": "dual" if dual else "prefix",
            "alg": "confidence_threshold",
            "threshold": threshold,
            "block_length": block,
            "gen_length": gen,
        }
        for (block, gen), threshold, dual in itertools.product(
            ((8, 32), (16, 48), (32, 32), (8, 16)), (0.9, 0.5, 0.25), (False, True)
        )
    ]
    stepped = [
        {"cache": "none", "alg": alg, "steps": steps, "gen_length": gen}
        for alg, (gen, steps) in itertools.product(
            ("maskgit_plus", "entropy", "topk_margin"), ((32, 32), (32, 16), (24, 7), (20, 5))
        )
    ]
    carried = [
        {
            "cache": "none",
            "alg": "confidence_threshold",
            "threshold": threshold,
            "steps": steps,
            "gen_length": gen,
        }
        for threshold, (gen, steps) in itertools.product((0.9, 0.5, 0.25), ((32, 8), (24, 12)))
    ]
    return cached * 3 + stepped * 4 + carried * 4


class Published:
    """The published model and both of its loops."""

    def __init__(self, number: int) -> None:
        self.keys = keys(number)
        from model.configuration_dream import DreamConfig
        from model.generation_utils import DreamGenerationConfig
        from model.modeling_dream import DreamModel

        model = DreamModel(DreamConfig(**self.keys, attn_implementation="sdpa"))
        self.model = common.give_weights(model, common.scales(number))
        special = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
        ids = {name: self.keys[name] for name in special}
        self.model.generation_config = DreamGenerationConfig(**ids)
        self.calls = common.Calls()
        self.probe = common.probe(lambda tokens: self.model(tokens, "full").logits, 7)
        self.calls.watch(self.model)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        from model import generation_utils, generation_utils_block

        whole = plan["cache"] == "none"
        mixin = (generation_utils if whole else generation_utils_block).DreamGenerationMixin
        given = {"max_new_tokens": plan["gen_length"], "alg": plan["alg"], "temperature": 0.0}
        # Else 50, which transformers puts into every model's configuration.
        given["top_k"] = None
        given |= {key: plan[key] for key in ("threshold", "steps") if key in plan}
        if not whole:
            given |= {"block_length": plan["block_length"], "dual_cache": plan["cache"] == "dual"}
            given["steps"] = plan["gen_length"]  # read only by other algorithms
        self.model._sample = types.MethodType(mixin._sample, self.model)
        self.calls.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            tokens = mixin.diffusion_generate(self.model, torch.tensor([prompt]), **given)
        return {"tokens": tokens[0, len(prompt) :].tolist(), **self.calls.taken()}


def main() -> None:
    folder, output = common.paths("dream")
    sys.path.insert(0, str(folder))
    models = [Published(number) for number in range(len(SHAPES))]
    names = ("modeling_dream", "generation_utils", "generation_utils_block")
    files = [folder / "model" / f"{name}.py" for name in names]
    common.record(output, SOURCE, files, models, plans(), LENGTHS)


if __name__ == "__main__":
    main()
