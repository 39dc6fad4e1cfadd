from __future__ import annotations

import importlib.util

import pytest
import torch

from dllmc.kernels import (
    canonical,
    canonical_names,
    default_implementations,
    implementation,
    implementations,
)

NAMES = (
    "all_logits",
    "attention",
    "cached_attention",
    "entropy",
    "experts",
    "gather_logits",
    "gather_rows",
    "head_statistics",
    "held",
    "int4_linear",
    "int8_linear",
    "joint_layer",
    "linear",
    "mixture",
    "position_bias",
    "rms_norm",
    "rotary",
    "row_positions",
    "saliency",
    "sampled_head_statistics",
    "sampled_statistics",
    "second",
    "statistics",
    "swiglu",
    "top",
    "write_cache",
)


def test_every_operator_of_the_room_is_registered() -> None:
    assert sorted(canonical_names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_implementations_have_the_signature_of_their_operator(name: str) -> None:
    def signature(overload: torch._ops.OpOverload[..., object]) -> str:
        return str(overload._schema).partition("(")[2]

    assert "torch" in implementations(name)
    for which in implementations(name):
        assert signature(implementation(name, which)) == signature(canonical(name))


def test_defaults_exist() -> None:
    for device in ("cpu", "cuda"):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            for name, which in default_implementations(torch.device(device), dtype).items():
                assert which in implementations(name)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux")
def test_attention_takes_triton_where_it_was_measured() -> None:
    chosen = {
        dtype: default_implementations(torch.device("cuda"), dtype).get("cached_attention")
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    }
    assert chosen == {torch.float16: "triton", torch.bfloat16: "triton"} | dict.fromkeys(
        (torch.float32, torch.float64)
    )


@pytest.mark.parametrize("name", ["head_statistics", "sampled_head_statistics"])
def test_a_head_whose_logits_are_asked_for_finds_its_product(name: str) -> None:
    # `artifact/variants.py` takes a head apart by the name of its implementation.
    assert implementations(name) <= implementations("linear")
