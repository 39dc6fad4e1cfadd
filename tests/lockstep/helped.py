"""Tiny denoisers with a tiny causal model of the same vocabulary beside them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from golden.drawing import draw
from lockstep.compare import Request
from lockstep.drawn import (
    EOS,
    LONGEST,
    MASK,
    SHAPES,
    VOCAB,
    Shape,
    compiled_model,
    config_for,
)

from dllmc.compiler.compiled import CompiledModel, compile_model
from dllmc.models import LoadedModel
from dllmc.models.qwen2 import Qwen2
from dllmc.runtime.engine import Engine

if TYPE_CHECKING:
    import random

    from dllmc.spec import DenoiserSpec

# Full attention and no rows of the vocabulary to spare: one layer, padded prompts, shifted logits.
HELPED = SHAPES[0], SHAPES[4], SHAPES[6]
KEYS: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "mask_token_id": MASK,
    "eos_token_id": EOS,
}


@functools.cache
def auxiliary(seed: int = 0, vocab_size: int = VOCAB) -> LoadedModel:
    """A causal model; about as sure of itself as the denoisers."""
    keys = KEYS | {"vocab_size": vocab_size}
    module, spec = Qwen2.from_config(keys)
    shapes = {name: list(weight.shape) for name, weight in module.state_dict().items()}
    scales = {"qk_scale": 2.0, "embedding_scale": 0.4, "head_scale": 4.0}
    module.load_state_dict(draw(shapes, MASK, seed=100 + seed, **scales))
    return LoadedModel(
        module.eval().requires_grad_(False), spec, None, f"auxiliary-{seed}", None, keys
    )


@functools.cache
def compiled_auxiliary(seed: int = 0, vocab_size: int = VOCAB) -> CompiledModel:
    return compile_model(auxiliary(seed, vocab_size), engine_of=Engine, backend="eager")


@functools.cache
def helped(shape: Shape, seed: int = 0) -> Engine:
    """An engine over a denoiser, with a causal model."""
    engine: Engine = compiled_model(shape).engine(
        backend="eager", auxiliary=compiled_auxiliary(seed)
    )
    return engine


def requests(rng: random.Random, spec: DenoiserSpec, kind: str) -> list[Request]:
    """Up to four prompts, each with a configuration that asks the causal model as `kind` does."""
    found = []
    for stream in range(rng.randint(1, 4)):
        length = rng.randint(1, 24)
        prompt = [rng.randint(0, VOCAB - 2) for _ in range(rng.randint(1, 9))]
        found.append(
            Request(prompt, config_for(rng, spec, length, **_fixed(rng, kind)), length, stream)
        )
    return found


def _fixed(rng: random.Random, kind: str) -> dict[str, dict[str, Any]]:
    if kind == "specdiff":
        return {"verify": {"kind": kind}}
    coupling, mixture = rng.choice(("shared", "greedy")), rng.choice((0.0, 1.0, rng.random()))
    return {
        "schedule": {"kind": "lookahead", "length": rng.randint(1, 12)},
        "commit": {"kind": "leftmost"},
        "verify": {"kind": "apd", "mixture": mixture, "coupling": coupling},
    }
