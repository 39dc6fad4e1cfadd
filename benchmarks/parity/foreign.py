"""Published modules compiled as they are: captured logits, and decoding against the reference.

The folder holds the published modelling code, of which this file holds none; the environment is
one that the code works in:

    python benchmarks/parity/foreign.py llada FOLDER    configuration_llada.py, modeling_llada.py
    python benchmarks/parity/foreign.py dream FOLDER    configuration_dream.py, modeling_dream.py
    python benchmarks/parity/foreign.py fast_dllm_v2 FOLDER    configuration.py, modeling.py

Transformers 4.49 to 4.57; 4.57 for Fast-dLLM v2. Weights are drawn from a seed, and random tokens
hold masks. The module goes into `dllmc.compile` unmodified, without a spec: its configuration
tells everything. Every pass is verified in float64. What the engine decodes is compared with
`dllmc.reference.generate` on the published module; `--inductor` compiles the steps too.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import decode_common as common
import torch
import transformers

import dllmc
from dllmc.compiler.capture import capture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from dllmc.models import LoadedModel

    # The module, and what it is called with where that is more than tokens.
    Built = tuple[nn.Module, dict[str, Any] | None]

# Width, heads, key and value heads, layers, rotary base, tied head
SHAPES = (
    (32, 4, 4, 2, 1e4, False),
    (48, 6, 2, 3, 5e5, False),
    (64, 4, 1, 2, 1e6, False),
    (32, 4, 2, 2, 1e4, True),
)
# Of Fast-dLLM v2.
BLOCKS = (4, 8, 16, 32)
LENGTHS = (1, 2, 6, 7, 8, 31, 64, 120)
CANVAS = 128
PROMPTS, NEW = (3, 8, 13), 24
COMMITS: tuple[dict[str, Any], ...] = (
    {"kind": "quota", "steps": 12},
    {"kind": "threshold", "threshold": 0.9},
    {"kind": "threshold", "threshold": 0.25},
    {"kind": "factor", "factor": 1.0},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=BUILDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inductor", action="store_true")
    parser.add_argument("--shift", type=int, choices=(0, 1), help="instead of the inferred one")
    options = parser.parse_args()
    common.package("published", options.folder.resolve())
    sys.path.insert(0, str(options.folder.resolve()))
    build = BUILDERS[options.system]
    backend = "inductor" if options.inductor else "eager"
    given = {} if options.shift is None else {"logit_shift": options.shift}
    rows = []
    for number in range(len(SHAPES)):
        torch.manual_seed(number)
        module, example = build(number)
        begun = time.perf_counter()
        compiled = dllmc.compile(module, spec=given, example=example, backend=backend, verify=True)
        seconds = time.perf_counter() - begun
        adapted = dllmc.adapt(module, spec=given, example=example)
        matches = {result.name: result.matched for result in compiled.report}
        rows.append(
            {
                "shape": SHAPES[number],
                "spec": adapted.spec.model_dump(exclude_defaults=True),
                "seconds": round(seconds, 1),
                "logits": captured_against(module, example, adapted, number),
                "matches": {name: n for name, n in matches.items() if name.startswith("match_")},
                "decodes": decoded_against(adapted, compiled.engine(), number),
            }
        )
        print(json.dumps(rows[-1]))
    cases = sum(row["decodes"]["cases"] for row in rows)
    same = sum(row["decodes"]["same"] for row in rows)
    worst = max(row["logits"]["largest difference"] for row in rows)
    print(
        f"{options.system}, transformers {transformers.__version__}, torch {torch.__version__}, "
        f"{backend}: {len(rows)} modules compiled and verified; logits differ by {worst:.1e} at "
        f"most; {same} of {cases} decodes are the reference's in tokens and evaluations"
    )


def captured_against(
    module: nn.Module, example: dict[str, Any] | None, adapted: LoadedModel, number: int
) -> dict[str, float]:
    """The captured graph against the published forward, at lengths that it was not traced at."""
    graph = capture(adapted.module, adapted.spec)
    more = {name: value for name, value in (example or {}).items() if name != "input_ids"}
    worst = 0.0
    for length, batch in itertools.product(LENGTHS, (1, 4)):
        prompts = [common.prompt(100 * number + row, length) for row in range(batch)]
        tokens = torch.tensor(prompts)
        tokens[torch.rand(tokens.shape) < 0.5] = common.MASK
        with torch.no_grad():
            (found,), expected = graph(tokens), module(tokens, **more).logits
        worst = max(worst, (found - expected).abs().max().item())
    return {"inputs": 2 * len(LENGTHS), "largest difference": worst}


def decoded_against(adapted: LoadedModel, engine: Any, number: int) -> dict[str, Any]:
    """The engine against the reference decoder on the published module."""
    counts: collections.Counter[str] = collections.Counter()
    different = []
    for index, (length, config) in enumerate(itertools.product(PROMPTS, configs(adapted.spec))):
        prompt = common.prompt(3000 + 50 * number + index, length)
        found = engine.generate(prompt, max_new_tokens=NEW, config=config)
        expected = dllmc.reference.generate(adapted, prompt, config, max_new_tokens=NEW)
        counts["cases"] += 1
        if (found.tokens, found.nfe) == (expected.tokens, expected.nfe):
            counts["same"] += 1
        else:
            different.append({"prompt": prompt, "config": json.loads(config.canonical_json())})
        counts["evaluations"] += expected.nfe
        counts["early"] += len(expected.tokens) < NEW
    return {**counts, "different": different}


def configs(spec: dllmc.DenoiserSpec) -> Iterator[Any]:
    caches, blocks, commits = ("none", "prefix", "dual"), (8, 24), COMMITS
    if spec.block_length is not None:
        # How many blocks there are depends on the prompt, so steps may not divide over them.
        commits = ({"kind": "quota"}, *COMMITS[1:])
        caches, blocks = ("none", "block_causal"), (spec.block_length,)
    for commit, cache, block in itertools.product(commits, caches, blocks):
        yield dllmc.DecodingConfig.model_validate(
            {
                "schedule": {"kind": "blocks", "block_length": block},
                "commit": commit,
                "cache": {"kind": cache},
            }
        )


def dream(number: int) -> Built:
    config = published("configuration_dream").DreamConfig(**qwen_keys(number))
    module = published("modeling_dream").DreamModel(config)
    return give_weights(module, number, "lm_head.weight"), None


def fast_dllm_v2(number: int) -> Built:
    block = BLOCKS[number]
    config = published("configuration").Fast_dLLM_QwenConfig(**qwen_keys(number), bd_size=block)
    module = published("modeling").Fast_dLLM_QwenForCausalLM(config)
    # The forward takes the block length as an argument, and 32 where it is not given.
    example = {"input_ids": torch.zeros(1, 5, dtype=torch.int64), "block_size": block}
    return give_weights(module, number, "lm_head.weight"), example


def qwen_keys(number: int) -> dict[str, Any]:
    width, heads, kv_heads, layers, base, tied = SHAPES[number]
    return {
        "vocab_size": common.VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": CANVAS,
        "rope_theta": base,
        "tie_word_embeddings": tied,
        "mask_token_id": common.MASK,
        "pad_token_id": common.PAD,
        "bos_token_id": common.EOS,
        "eos_token_id": common.EOS,
        "attn_implementation": "sdpa",
    }


def llada(number: int) -> Built:
    width, heads, kv_heads, layers, base, tied = SHAPES[number]
    config = published("configuration_llada").LLaDAConfig(
        d_model=width,
        n_heads=heads,
        n_kv_heads=kv_heads,
        n_layers=layers,
        mlp_hidden_size=2 * width,
        max_sequence_length=CANVAS,
        vocab_size=common.VOCABULARY,
        embedding_size=common.VOCABULARY,
        mask_token_id=common.MASK,
        eos_token_id=common.EOS,
        pad_token_id=common.PAD,
        block_type="llama",
        activation_type="silu",
        layer_norm_type="rms",
        layer_norm_with_affine=True,
        rms_norm_eps=1e-5,
        rope=True,
        rope_theta=base,
        rope_full_precision=True,
        include_bias=False,
        include_qkv_bias=False,
        bias_for_layer_norm=False,
        weight_tying=tied,
        alibi=False,
        scale_logits=False,
        flash_attention=False,
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        use_cache=False,
        init_device="cpu",
    )
    modeling = published("modeling_llada")
    # The wrapper alone would put the weights on a GPU.
    keys = modeling.create_model_config_from_pretrained_config(config)
    module = modeling.LLaDAModelLM(config, model=modeling.LLaDAModel(keys, init_params=False))
    return give_weights(module, number, "model.transformer.ff_out.weight"), None


def published(name: str) -> Any:
    return importlib.import_module(f"published.{name}")


def give_weights(module: nn.Module, number: int, head: str) -> nn.Module:
    """Drawn weights, whose confidences vary and whose head never prefers the mask."""
    scales = common.scales(number)
    common.give_weights(module, scales)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name == head and parameter.shape[0] == common.VOCABULARY:
            with torch.no_grad():
                parameter[common.MASK] = 0
                parameter *= scales["head_scale"] / parameter.std() / parameter.shape[1] ** 0.5
    return module


BUILDERS = {"llada": llada, "dream": dream, "fast_dllm_v2": fast_dllm_v2}

if __name__ == "__main__":
    main()
