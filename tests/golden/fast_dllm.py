"""Published decodes: what the cases of `fast_dllm_v1.json` are, and the models they are of."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllmc.models.llada import LLaDA
from dllmc.policies.config import DecodingConfig

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec

FILE = Path(__file__).with_name("fast_dllm_v1.json")


@dataclass(frozen=True)
class TinyModel:
    module: LLaDA
    spec: DenoiserSpec


@dataclass(frozen=True)
class Case:
    model: int
    prompt: list[int]
    config: DecodingConfig
    max_new_tokens: int
    tokens: list[int]
    nfe: int


def tiny_model(keys: dict[str, Any], seed: int, qk_scale: float, head_scale: float) -> TinyModel:
    """A LLaDA whose weights follow from `seed` without torch's generators.

    Tensors are drawn in the order of their names. The scales set how much attention and
    confidences vary; the mask's logit is 0, which is never the largest.
    """
    module, spec = LLaDA.from_config(keys)
    generator = np.random.default_rng(seed)
    state = {}
    for name, tensor in sorted(module.state_dict().items()):
        value = generator.standard_normal(tuple(tensor.shape))
        if name.endswith(("norm.weight", "ln_f.weight")):
            value = 1 + 0.1 * value
        elif name.endswith("bias"):
            value *= 0.1
        elif not name.endswith("wte.weight"):
            value /= math.sqrt(tensor.shape[1])
        if "q_proj.weight" in name or "k_proj.weight" in name:
            value *= qk_scale
        if name == "model.transformer.ff_out.weight":
            value *= head_scale
            value[spec.mask_id] = 0
        state[name] = torch.from_numpy(value.astype(np.float32))
    module.load_state_dict(state)
    return TinyModel(module.eval(), spec)


@functools.cache
def load() -> tuple[list[TinyModel], list[Case]]:
    stored = json.loads(FILE.read_text())
    models = [tiny_model(**model) for model in stored["models"]]
    return models, [
        Case(
            model=case["model"],
            prompt=case["prompt"],
            config=DecodingConfig(
                schedule={"kind": "blocks", "block_length": case["block_length"]},
                commit=case["commit"],
                cache={"kind": case["cache"]},
                stop={"kind": "length"},
            ),
            max_new_tokens=len(case["tokens"]),
            tokens=case["tokens"],
            nfe=case["nfe"],
        )
        for case in stored["cases"]
    ]
