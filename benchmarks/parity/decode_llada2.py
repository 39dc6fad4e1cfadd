"""Decodes of LLaDA2.0 and LLaDA2.1 by `generate` of the published models.

    python benchmarks/parity/decode_llada2.py DLLM 2.0 tests/golden/llada2.json
    python benchmarks/parity/decode_llada2.py DLLM 2.1 tests/golden/llada21.json

DLLM is a clone of ZHZisZZ/dllm, which holds the modelling code of both. Needs transformers 4.57.
The loops build their mask, 0 or minus infinity, in bfloat16; a float32 model takes it as float32.
"""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any

import decode_common as common
import torch

if TYPE_CHECKING:
    from torch import nn

SOURCE = {
    "repository": "ZHZisZZ/dllm",
    "commit": "ca17675",
    "license": "Apache-2.0",
}
# Width, heads, key and value heads, layers, experts, experts per token, groups, groups chosen.
SHAPES = (
    (32, 4, 2, 2, 8, 2, 4, 2),
    (32, 4, 4, 3, 8, 3, 2, 1),
    (48, 4, 1, 2, 16, 4, 8, 4),
    (32, 4, 2, 2, 8, 2, 1, 1),
)
LENGTHS = (1, 3, 5, 8, 11, 16, 19, 24, 32)
BLOCKS = ((8, 28), (16, 40), (32, 36), (8, 16))
NEVER = -1


def keys(number: int) -> dict[str, Any]:
    width, heads, kv_heads, layers, experts, chosen, groups, groups_chosen = SHAPES[number]
    return {
        "architectures": ["LLaDA2MoeModelLM"],
        "model_type": "llada2_moe",
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "first_k_dense_replace": 1,
        "head_dim": (8, 16)[number % 2],
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 256,
        "moe_intermediate_size": width // 2,
        "moe_router_enable_expert_bias": True,
        "n_group": groups,
        "topk_group": groups_chosen,
        "norm_topk_prob": True,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_experts": experts,
        "num_experts_per_tok": chosen,
        "num_shared_experts": 1,
        "num_hidden_layers": layers,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": (600000, 10000)[number % 2],
        "routed_scaling_factor": (2.5, 1.0)[number % 2],
        "router_dtype": "fp32",
        "score_function": "sigmoid",
        "tie_word_embeddings": False,
        "use_bias": False,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_sliding_window": False,
        "vocab_size": common.VOCABULARY,
        "mask_token_id": common.MASK,
        "pad_token_id": common.EOS,
        "eos_token_id": common.EOS,
    }


def plans(version: str) -> list[dict[str, Any]]:
    """Settings by the published names; `stop` marks those that end at a token."""
    found: list[dict[str, Any]] = []
    if version == "2.0":
        for (block, gen), threshold, half in itertools.product(BLOCKS, (0.95, 0.5, 0.25), (1, 2)):
            plan = {"block_length": block, "gen_length": gen, "threshold": threshold}
            found.append(plan | {"steps": block // half})
        return found * 5 + [plan | {"stop": True} for plan in found]
    ways = ((0.95, 0.9, 16), (0.5, 0.5, 16), (0.25, 0.6, 16), (0.7, 0.2, 4), (0.5, 0.0, 3))
    for (block, gen), (threshold, editing, post) in itertools.product(BLOCKS, ways):
        plan = {"block_length": block, "gen_length": gen, "threshold": threshold}
        found.append(plan | {"editing_threshold": editing, "max_post_steps": post})
    last = [plan | {"max_post_steps": 0} for plan in found[::4]]
    return found * 6 + last + [plan | {"stop": True} for plan in found[::2]]


def in_float32(model: nn.Module) -> nn.Module:
    forward = model.forward

    def with_mask(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        mask = None if attention_mask is None else attention_mask.float()
        return forward(*args, attention_mask=mask, **kwargs)

    model.forward = with_mask
    return model


class Published:
    def __init__(self, package: str, suffix: str, number: int) -> None:
        self.keys = keys(number)
        configuration = importlib.import_module(f"{package}.configuration_{suffix}")
        modeling = importlib.import_module(f"{package}.modeling_{suffix}")
        config = configuration.LLaDA2MoeConfig(**self.keys, attn_implementation="sdpa")
        model = modeling.LLaDA2MoeModelLM(config)
        self.model = in_float32(common.give_weights(model, common.scales(number)))
        whole = torch.zeros(1, 1, 7, 7)
        self.probe = common.probe(
            lambda tokens: self.model(tokens, attention_mask=whole).logits, 7
        )
        self.calls = common.Calls()
        self.calls.watch(self.model)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any] | None:
        given = {key: value for key, value in plan.items() if key != "stop"}
        # A last block past `gen_length` is decoded in full and cut: let the length end a block.
        given["gen_length"] += -(len(prompt) + given["gen_length"]) % given["block_length"]
        decoded = self._run(prompt, eos_id=NEVER, **given)
        if plan.get("stop"):
            # Of a prompt that holds the ending token, LLaDA2.0 returns nothing.
            later = decoded["tokens"][len(decoded["tokens"]) // 2 :]
            endings = [token for token in later if token not in prompt]
            if not endings:
                return None
            ending = {"eos_id": endings[0], "eos_early_stop": True}
            return ending | self._run(prompt, **ending, **given)
        return decoded | ({"edits": self._edits()} if "editing_threshold" in plan else {})

    def _run(self, prompt: list[int], **given: Any) -> dict[str, Any]:
        self.calls.clear()
        tokens = self.model.generate(torch.tensor([prompt]), mask_id=common.MASK, **given)
        return {"tokens": tokens[0].tolist(), **self.calls.taken()}

    def _edits(self) -> int:
        """Tokens that a later evaluation saw changed."""
        return sum(
            common.MASK not in (old, new) and old != new
            for before, after in itertools.pairwise(self.calls.inputs)
            for old, new in zip(before, after, strict=False)
        )


def main() -> None:
    dllm, version, output = common.paths("dllm", "version")
    suffix = {"2.0": "llada2_moe", "2.1": "llada21_moe"}[version.name]
    folder = dllm / "dllm/pipelines" / suffix.removesuffix("_moe") / "models"
    common.package("published", folder)
    models = [Published("published", suffix, number) for number in range(len(SHAPES))]
    source = SOURCE | {"version": version.name}
    common.record(
        output, source, [folder / f"modeling_{suffix}.py"], models, plans(version.name), LENGTHS
    )


if __name__ == "__main__":
    main()
