"""Checks that LLaDA's own loop decodes like Fast-dLLM v1's with a quota and no cache.

    python benchmarks/parity/decode_llada.py CLONE

CLONE is one of ML-GSAI/LLaDA. Its `generate.py` runs on our module, whose decodes by Fast-dLLM v1
are in `tests/golden/fast_dllm_v1.json`; it takes probabilities in float32 and they in float64.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import decode_common as common
import torch
from golden.fast_dllm import TinyModel, load


def callable_of(model: TinyModel) -> Any:
    def forward(tokens: torch.Tensor, attention_mask: None) -> types.SimpleNamespace:
        del attention_mask
        return types.SimpleNamespace(logits=model.module(tokens))

    forward.device = torch.device("cpu")
    return forward


def main() -> None:
    (clone,) = common.paths("llada", output=False)
    sys.path.insert(0, str(clone))
    from generate import generate

    models, cases = load()
    kept = [c for c in cases if (c.config.commit.kind, c.config.cache.kind) == ("quota", "none")]
    differ = 0
    for case in kept:
        tokens = generate(
            callable_of(models[case.model]),
            torch.tensor([case.prompt]),
            steps=case.config.commit.steps or case.max_new_tokens,
            gen_length=case.max_new_tokens,
            block_length=case.config.schedule.block_length,
            mask_id=models[case.model].spec.mask_id,
        )
        differ += tokens[0, len(case.prompt) :].tolist() != case.tokens
    print(f"{len(kept)} decodes, {differ} differ")


if __name__ == "__main__":
    main()
