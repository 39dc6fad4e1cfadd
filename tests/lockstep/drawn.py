"""Random tiny models and random requests, for the lockstep tests."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import torch
from golden.fast_dllm import tiny_model
from hypothesis import strategies as st
from lockstep.compare import Request

from dllmc.compiler.compiled import CompiledModel, compile_model
from dllmc.models import LoadedModel
from dllmc.policies._registry import kinds
from dllmc.policies.axes import AXES
from dllmc.policies.config import DecodingConfig
from dllmc.policies.layout import lay_out
from dllmc.runtime.engine import Engine
from dllmc.spec import ConfigError, DenoiserSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import DrawFn

    from dllmc.policies._base import Knob, Policy

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
def batches(draw: DrawFn, shape: Shape, *, plain: bool = False) -> list[Request]:
    """Up to five prompts of unequal length, with one configuration or one each.

    Args:
        draw: Of hypothesis.
        shape: Of the denoiser.
        plain: Whether all of them run on the programs of the default configuration.
    """
    rng = random.Random(draw(st.integers(0, 2**64 - 1)))
    spec, count, length = model_of(shape).spec, rng.randint(1, 5), rng.randint(1, 24)
    prompts = [[rng.randint(0, VOCAB - 2) for _ in range(rng.randint(1, 9))] for _ in range(count)]
    shared = config_for(rng, spec, length, prompts, plain=plain)
    if rng.random() < 0.5:
        return [Request(p, shared, length, stream) for stream, p in enumerate(prompts)]
    requests = []
    for prompt in prompts:
        length = rng.randint(1, 24)
        config = config_for(rng, spec, length, [prompt], plain=plain)
        requests.append(Request(prompt, config, length, rng.randint(0, 7)))
    return requests


def config_for(
    rng: random.Random,
    spec: DenoiserSpec,
    length: int,
    prompts: Sequence[Sequence[int]] = (),
    *,
    plain: bool = False,
    **fixed: dict[str, Any],
) -> DecodingConfig:
    """A configuration of any policies that go together and can decode such a response.

    Args:
        rng: To draw from.
        spec: Of the denoiser.
        length: Of the response.
        prompts: That it must fit; blocks may be counted from where they begin.
        plain: Whether it must run on the programs of the default configuration.
        **fixed: Policies that are given, by axis.
    """
    while True:
        try:
            config = any_config(rng, spec, length, **fixed)
            config.check_model(spec)
            config.check(length)
            for prompt in prompts:
                start = len(spec.prepare_prompt(prompt, length))
                _, blocks = lay_out(config.schedule, spec, start, length)
                config.commit.check(length, len(blocks))
        except ConfigError:
            continue
        if is_plain(config) or not plain:
            return config


def is_plain(config: DecodingConfig) -> bool:
    """Whether it takes plain statistics, tokens, masks and caches, sampled or not."""
    return (
        config.statistics in ("greedy", "sampled")
        and not config.belief.width
        and not config.verify.tree
        and "filters" not in config.cache.properties
    )


def any_config(
    rng: random.Random, spec: DenoiserSpec, length: int, **fixed: dict[str, Any]
) -> DecodingConfig:
    chosen = {axis: any_policy(rng, axis) for axis in AXES} | fixed
    block = chosen["schedule"].get("block_length")
    if chosen["commit"].get("steps") and block and spec.attention == "full":
        chosen["commit"]["steps"] *= -(-length // block)
    return DecodingConfig(
        **chosen,
        temperature=rng.choice((0.0, rng.uniform(0.05, 3.0))),
        seed=rng.randint(0, 2**63 - 1),
    )


def any_policy(rng: random.Random, axis: str) -> dict[str, Any]:
    """A kind of `axis`, with values for all its fields: its usual kind half the time."""
    usual = DecodingConfig.model_fields[axis].get_default(call_default_factory=True).kind
    kind = usual if rng.random() < _USUAL[axis] else rng.choice(sorted(drawn_kinds(axis)))
    values: dict[str, Any] = {"kind": kind}
    policy = drawn_kinds(axis)[kind]
    for name, field in policy.model_fields.items():
        if name in FIELDS:
            values[name] = FIELDS[name](rng)
        elif name in policy.knobs():
            values[name] = _value(rng, policy.knobs()[name], optional="None" in str(field))
        elif get_origin(field.annotation) is Literal and name != "kind":
            values[name] = rng.choice(get_args(field.annotation))
    return values


def drawn_kinds(axis: str) -> dict[str, type[Policy]]:
    """Those that need nothing beside the model."""
    return {name: kind for name, kind in kinds(axis).items() if name not in NOT_DRAWN}


def _value(rng: random.Random, knob: Knob, *, optional: bool) -> Any:
    if knob.choices:
        return rng.choice(knob.choices)
    if optional and rng.random() < 0.3:
        return None
    assert knob.low is not None
    assert knob.high is not None
    if isinstance(knob.low, int) and isinstance(knob.high, int):
        return rng.randint(knob.low, max(knob.low, min(knob.high, 12)))
    # Tiny random models are less sure than trained ones: lower than knobs are worth trying at.
    return rng.uniform(knob.low / 4, knob.high)


# Fields that knobs do not say how to draw, by name.
FIELDS: dict[str, Callable[[random.Random], Any]] = {
    "block_length": lambda rng: rng.randint(1, 12),
    "delimiters": lambda rng: tuple(rng.sample(range(VOCAB - 1), rng.randint(0, 6))),
    "refresh_every": lambda rng: rng.choice((None, rng.randint(1, 6))),
}
# Tested elsewhere, with the files, tokenizers and models that they need.
NOT_DRAWN = ("learned_filter", "regex", "json_schema", "apd", "specdiff", "joint_sampler")
_USUAL = {
    "schedule": 0.3,
    "belief": 0.6,
    "score": 0.3,
    "commit": 0.1,
    "cache": 0.2,
    "verify": 0.5,
    "stop": 0.3,
    "constrain": 1.0,
    "revise": 0.7,
}
