"""Random tiny models and random requests, for the lockstep tests."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from golden.fast_dllm import tiny_model
from hypothesis import strategies as st
from lockstep.compare import Request

from dllmc.compiler.compiled import CompiledModel, compile_model
from dllmc.models import LoadedModel
from dllmc.policies.config import DecodingConfig
from dllmc.runtime.engine import Engine
from dllmc.spec import DenoiserSpec

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

MASK, EOS, VOCAB, LONGEST = 23, 0, 24, 48

_KEYS: dict[str, Any] = {
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "mlp_hidden_size": 48,
    "vocab_size": VOCAB,
    "max_sequence_length": LONGEST,
    "mask_token_id": MASK,
    "eos_token_id": EOS,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


@dataclass(frozen=True)
class Shape:
    """A LLaDA: its keys beside those above, the seed of its weights, and how sure it is.

    `spec` changes how it is decoded: what its logits predict, and what its rows may see.
    """

    keys: tuple[tuple[str, Any], ...]
    seed: int
    head_scale: float
    mask_competes: bool = False
    spec: tuple[tuple[str, Any], ...] = ()


_BLOCKS = (("attention", "block_causal"), ("blocks_from", "response"))
_SHIFTED = ("logit_shift", 1)
SHAPES = (
    Shape((("n_layers", 1),), 11, 2.0),
    Shape((("n_kv_heads", 2), ("embedding_size", 29)), 12, 4.0),
    Shape((("n_layers", 3), ("n_kv_heads", 1)), 13, 3.0, mask_competes=True),
    Shape((("weight_tying", True), ("include_qkv_bias", True)), 14, 1.0),
    Shape((("n_layers", 3), ("prompt_slots", 9), ("rope_theta", 500.0)), 15, 6.0),
    Shape((("n_layers", 1), ("n_kv_heads", 2), ("d_model", 24), ("n_heads", 4)), 16, 3.0),
    Shape((("n_kv_heads", 2),), 17, 3.0, spec=(_SHIFTED,)),
    Shape((("n_layers", 3),), 18, 2.0, spec=(*_BLOCKS, ("block_length", 6))),
    Shape((("n_kv_heads", 1),), 19, 4.0, spec=(*_BLOCKS, ("block_length", 4), _SHIFTED)),
)


@functools.cache
def model_of(shape: Shape) -> LoadedModel:
    tiny = tiny_model(_KEYS | dict(shape.keys), shape.seed, 2.0, shape.head_scale)
    if shape.mask_competes:
        head: torch.nn.Parameter = tiny.module.model["transformer"].ff_out.weight
        with torch.no_grad():
            head[MASK] = 1.5 * head[MASK - 1].flip(0)
    spec = DenoiserSpec(**(tiny.spec.model_dump() | dict(shape.spec)))
    return LoadedModel(tiny.module.requires_grad_(False), spec, None, "drawn", None, {})


@functools.cache
def compiled_model(shape: Shape) -> CompiledModel:
    return compile_model(model_of(shape), engine_of=Engine)


@functools.cache
def engine_of(shape: Shape, backend: str = "eager") -> Engine:
    engine: Engine = compiled_model(shape).engine(backend=backend)
    return engine


@st.composite
def configs(draw: DrawFn, length: int, shape: Shape) -> DecodingConfig:
    spec = model_of(shape).spec
    block = draw(st.integers(1, 12))
    blocks = -(-length // block)
    quotas = st.builds(lambda each: each * blocks, st.integers(1, block + 1))
    # The number of blocks follows from the prompt too where the attention has blocks.
    steps = st.none() if spec.attention == "block_causal" else st.none() | quotas
    counts = st.none() | st.integers(1, 12)
    commit: SearchStrategy[dict[str, Any]] = st.one_of(
        st.builds(lambda steps: {"kind": "quota", "steps": steps}, steps),
        st.builds(lambda t: {"kind": "threshold", "threshold": t}, st.floats(0.05, 1.0)),
        st.builds(lambda f: {"kind": "factor", "factor": f}, st.floats(0.1, 3.0)),
        st.builds(lambda n: {"kind": "timesteps", "steps": n}, counts),
        st.builds(
            lambda t, n: {"kind": "dynamic", "threshold": t, "steps": n},
            st.floats(0.05, 1.0),
            counts,
        ),
    )
    revise: SearchStrategy[dict[str, Any]] = st.just({"kind": "none"}) | st.builds(
        lambda t, n: {"kind": "edit", "threshold": t, "steps": n},
        st.floats(0.05, 0.9),
        st.integers(0, 4),
    )
    return DecodingConfig(
        schedule={"kind": "blocks", "block_length": block},
        commit=draw(commit),
        cache=draw(_caches(spec)),
        stop={"kind": draw(st.sampled_from(("eos", "length")))},
        revise=draw(revise),
        temperature=draw(st.just(0.0) | st.floats(0.05, 3.0)),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


def _caches(spec: DenoiserSpec) -> SearchStrategy[dict[str, Any]]:
    shifted = bool(spec.logit_shift)
    refreshing = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(("prefix", "dual")),
            "refresh_every": st.none() | st.integers(1, 6),
            "refresh_commits": st.sampled_from(("auto", "policy", "first")[: 2 + shifted]),
            "window_first": st.sampled_from(("self", "carried")[: 1 + shifted]),
        }
    )
    found = st.just({"kind": "none"}) | refreshing
    if spec.attention == "block_causal":
        found |= st.fixed_dictionaries(
            {
                "kind": st.just("block_causal"),
                "append": st.sampled_from(("apart", "joined")),
                "within": st.sampled_from(("block", "sub_block")),
            }
        )
    return found


@st.composite
def batches(draw: DrawFn, shape: Shape) -> list[Request]:
    """Up to five prompts of unequal length, with one configuration or one each."""
    count = draw(st.integers(1, 5))
    token = st.integers(0, VOCAB - 2)
    prompts = [draw(st.lists(token, min_size=1, max_size=9)) for _ in range(count)]
    length = draw(st.integers(1, 24))
    shared = draw(configs(length, shape))
    if draw(st.booleans()):
        return [Request(p, shared, length, stream) for stream, p in enumerate(prompts)]
    lengths = [draw(st.integers(1, 24)) for _ in prompts]
    return [
        Request(p, draw(configs(n, shape)), n, draw(st.integers(0, 7)))
        for p, n in zip(prompts, lengths, strict=True)
    ]
