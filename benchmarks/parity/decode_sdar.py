"""Decodes of SDAR by its `generate.py`: cached blocks, three ways to choose tokens.

    python benchmarks/parity/decode_sdar.py CLONE tests/golden/sdar.json

Needs transformers 4.52.4, einops, and stands in for flash_attn, which needs a GPU: attention
becomes torch's and the fused norm the usual formula. Sampling is always `torch.multinomial`, here
replaced by the arg-max; `top_k=1` would instead make every confidence 1.

Where fewer masks are left than a step commits, the loop also overwrites tokens that were decided
before, prompt included. Such decodes are left out and counted.
"""

from __future__ import annotations

import importlib.machinery
import itertools
import sys
import types
from typing import Any

import decode_common as common
import torch

SOURCE = {
    "repository": "JetAstra/SDAR",
    "commit": "c2041a8",
    "license": "Apache-2.0",
}
# Width, heads, key and value heads, layers, head dimension.
SHAPES = ((32, 4, 2, 2, 8), (32, 4, 4, 2, 16), (48, 6, 2, 3, 8), (32, 2, 1, 2, 16))
LENGTHS = (1, 3, 4, 6, 8, 9, 13, 16, 22, 27, 32)


def keys(number: int) -> dict[str, Any]:
    width, heads, kv_heads, layers, head_dim = SHAPES[number]
    return {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "vocab_size": common.VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": (1e6, 1e4)[number % 2],
        "rope_scaling": None,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "mask_token_id": common.MASK,
        "pad_token_id": common.PAD,
        "bos_token_id": common.EOS,
        "eos_token_id": common.EOS,
    }


def plans() -> list[dict[str, Any]]:
    """Settings by the published names."""
    found = []
    rules = [("low_confidence_static", None), ("sequential", None)]
    rules += [("low_confidence_dynamic", threshold) for threshold in (0.9, 0.5, 0.25)]
    for (block, gen), half, (rule, threshold) in itertools.product(
        ((4, 24), (8, 32), (16, 32)), (1, 2), rules
    ):
        plan = {"remasking_strategy": rule, "block_length": block, "gen_length": gen}
        plan["denoising_steps"] = block // half
        found.append(plan | ({} if threshold is None else {"confidence_threshold": threshold}))
    # `stop` marks those that end at a token.
    return found * 6 + [plan | {"stop": True} for plan in found]


def stand_ins() -> None:
    def norm(x: Any, weight: Any, bias: Any = None, eps: float = 1e-6, **_: Any) -> Any:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)

    def attention(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
        assert not causal
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, scale=softmax_scale, enable_gqa=True
        )
        return found.transpose(1, 2)

    names = ("", ".ops", ".ops.triton", ".ops.triton.layer_norm", ".bert_padding")
    for name in ("flash_attn" + suffix for suffix in names):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name].__path__ = []
    sys.modules["flash_attn.ops.triton.layer_norm"].rms_norm_fn = norm
    sys.modules["flash_attn"].flash_attn_func = attention
    sys.modules["flash_attn"].flash_attn_varlen_func = None
    for name in ("index_first_axis", "pad_input", "unpad_input"):
        setattr(sys.modules["flash_attn.bert_padding"], name, None)
    loss = types.ModuleType("published_sdar.fused_linear_diffusion_cross_entropy")
    loss.FusedLinearDiffusionCrossEntropyLoss = None
    sys.modules[loss.__name__] = loss
    torch.multinomial = likeliest


def likeliest(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
    assert num_samples == 1
    return probabilities.argmax(-1, keepdim=True)


class Published:
    def __init__(self, number: int) -> None:
        self.keys = keys(number)
        from published_sdar.configuration_sdar import SDARConfig
        from published_sdar.modeling_sdar import SDARForCausalLM

        config = SDARConfig(**self.keys, fuse_cross_entropy=False)
        self.model = common.give_weights(SDARForCausalLM(config), common.scales(number))
        whole = torch.ones(1, 3, 3)
        self.probe = common.probe(
            lambda tokens: self.model(tokens, attention_mask=whole).logits, 3
        )
        self.calls = common.Calls(lambda call: "store" if call["store_kv"] else "denoise")
        self.calls.watch(self.model)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any] | None:
        from generate import block_diffusion_generate

        given = {key: value for key, value in plan.items() if key != "stop"}
        ids = {"input_ids": torch.tensor([prompt])}

        def run(**ending: Any) -> list[int]:
            self.calls.clear()
            found = block_diffusion_generate(
                self.model, ids, common.MASK, temperature=1.0, **given, **ending
            )
            tokens: list[int] = found[0].tolist()
            return tokens

        tokens, ending = run(), {}
        if plan.get("stop"):
            response = tokens[len(prompt) :]
            ending = {"stopping_criteria_idx": [response[len(response) // 2]]}
            tokens = run(**ending)
        # A block's evaluations see one another's commits: none may change.
        first = len(prompt) // plan["block_length"] * plan["block_length"]
        seen = self.calls.inputs[1 if first else 0 :]
        kept = all(
            old in (common.MASK, new)
            for before, after in itertools.pairwise(seen)
            if common.MASK in before
            for old, new in zip(before, after, strict=True)
        )
        if not kept:
            return None
        return {**ending, "tokens": tokens[len(prompt) :], **self.calls.taken()}


def main() -> None:
    folder, output = common.paths("sdar")
    stand_ins()
    model_folder = folder / "training/model/SDAR-4B-Chat"
    common.package("published_sdar", model_folder)
    sys.path.insert(0, str(folder))
    models = [Published(number) for number in range(len(SHAPES))]
    files = [folder / "generate.py", model_folder / "modeling_sdar.py"]
    common.record(output, SOURCE, files, models, plans(), LENGTHS)


if __name__ == "__main__":
    main()
