"""Decodes of LLaDA-MoE by the LLaDA loop without cache: the model has none.

    python benchmarks/parity/decode_llada_moe.py DLLM FAST_DLLM tests/golden/llada_moe.json

Takes two clones: ZHZisZZ/dllm, which holds the published modelling code, and NVlabs/Fast-dLLM,
whose `v1/llada/generate.py` decodes. Needs transformers 4.57.
"""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import decode_common as common
import torch

SOURCE = {
    "repository": "ZHZisZZ/dllm (model), NVlabs/Fast-dLLM (loop)",
    "commit": "ca17675, a9b81e4caa240c8cad4f7dc1889ff4852a0fca5b",
    "license": "Apache-2.0",
}
# Width, heads, key and value heads, layers, experts, experts per token.
SHAPES = ((32, 4, 4, 2, 8, 2), (32, 4, 2, 2, 8, 3), (48, 4, 4, 3, 4, 1))
LENGTHS = (3, 5, 8, 11, 16, 21, 32)


def keys(number: int) -> dict[str, Any]:
    width, heads, kv_heads, layers, experts, chosen = SHAPES[number]
    return {
        "architectures": ["LLaDAMoEModelLM"],
        "model_type": "llada",
        "attention_bias": False,
        "clip_qkv": None,
        "dense_intermediate_size": 2 * width,
        "expert_intermediate_size": width // 2,
        "shared_expert_intermediate_size": None,
        "hidden_act": "silu",
        "hidden_size": width,
        "max_position_embeddings": 256,
        "moe_layer_freq": [1] * layers,
        "moe_router_enable_expert_bias": False,
        "moe_router_score_function": "softmax",
        "norm_topk_prob": None,
        "num_attention_heads": heads,
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 50000,
        "routed_scaling_factor": 1,
        "router_num_group": None,
        "router_topk_group": None,
        "tie_word_embeddings": False,
        "vocab_size": common.VOCABULARY,
        "mask_token_id": common.MASK,
        "pad_token_id": common.EOS,
        "eos_token_id": common.EOS,
    }


def plans() -> list[dict[str, Any]]:
    """Settings by the published names; `steps` of a quota, else unread."""
    blocks = ((8, 32), (16, 32), (32, 32), (24, 24))
    quotas = [
        {"block_length": block, "gen_length": gen, "steps": gen // each}
        for (block, gen), each in itertools.product(blocks, (1, 2, 4))
    ]
    thresholds = [
        {"block_length": block, "gen_length": gen, "steps": gen, "threshold": threshold}
        for (block, gen), threshold in itertools.product(blocks, (0.9, 0.5, 0.25))
    ]
    return (quotas + thresholds) * 5


class Published:
    def __init__(self, number: int) -> None:
        self.keys = keys(number)
        from published_llada.configuration_lladamoe import LLaDAMoEConfig
        from published_llada.modeling_lladamoe import LLaDAMoEModelLM

        config = LLaDAMoEConfig(**self.keys, attn_implementation="sdpa")
        self.model = common.give_weights(LLaDAMoEModelLM(config), common.scales(number))
        self.probe = common.probe(lambda tokens: self.model(tokens).logits, 7)
        self.calls = common.Calls()
        self.calls.watch(self.model)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        from generate import generate

        self.calls.clear()
        tokens, _ = generate(self.model, torch.tensor([prompt]), mask_id=common.MASK, **plan)
        return {"tokens": tokens[0, len(prompt) :].tolist(), **self.calls.taken()}


def main() -> None:
    dllm, fast, output = common.paths("dllm", "fast_dllm")
    models_folder, loop_folder = dllm / "dllm/pipelines/llada/models", fast / "v1/llada"
    common.package("published_llada", models_folder)
    # The loop's file imports LLaDA's own model, which is not needed here.
    unused = types.ModuleType("model.modeling_llada")
    unused.LLaDAModelLM = None
    sys.modules |= {"model": types.ModuleType("model"), "model.modeling_llada": unused}
    sys.path.insert(0, str(loop_folder))
    models = [Published(number) for number in range(len(SHAPES))]
    files = [models_folder / "modeling_lladamoe.py", loop_folder / "generate.py"]
    common.record(output, SOURCE, files, models, plans(), LENGTHS)


if __name__ == "__main__":
    main()
