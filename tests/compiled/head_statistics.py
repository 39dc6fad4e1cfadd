from __future__ import annotations

import triton
import triton.language as tl

from compiled.case import Case, launched
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.head_statistics import _tile, warps
from dllmc.kernels._triton.statistics import merge

# Of LLaDA.
_VOCABULARY = 126464
_SIZES = ("mask_id", "vocabulary", "rows", "rows_of_one", "depth", "x_stride", "weight_stride")
_PARTS = {"parts": "*fp32", "tokens_of_parts": "*i32"}


def tile(kernel: str, config: dict[str, int], sampled: bool) -> Case:
    constants, options = launched(config)
    kind, word = ("fp32", "sums") if kernel.endswith("float32") else ("bf16", "product")
    types = {"x": f"*{kind}", "weight": f"*{kind}", "bias": f"*{kind}", "barred": "*fp32"}
    types |= {**_PARTS, **dict.fromkeys(_SIZES, "i32")}
    held: dict[str, object] = {**constants, "EVEN": True, "SAMPLED": sampled}
    drawn = {"hashes": "*i64", "temperature": "*fp32"}
    if sampled:
        types |= drawn
    else:
        held |= dict.fromkeys(drawn)
    name = f"{kernel} {word} {config} sampled={sampled}"
    return Case(name, _tile, types, held, options, aligned=("depth", "x_stride", "weight_stride"))


def merged(block: int) -> Case:
    splits = triton.cdiv(_VOCABULARY, block)
    padded = triton.next_power_of_2(splits)
    sizes = ("mask_id", "vocabulary", "rows", "batch_stride", "row_stride")
    types = {"logits": "*fp32", "ids": "*i64", "chosen": "*fp32", "tails": "*fp32"}
    types |= {**_PARTS, **dict.fromkeys(sizes, "i32")}
    held = {"SPLITS": splits, "PADDED": padded, "WIDE": tl.float32}
    return Case(f"merge {splits} of a head", merge, types, held, {"num_warps": warps(padded)})


def _cases() -> list[Case]:
    kernels = ("head_statistics", "head_statistics_float32")
    found = [(kernel, config) for kernel in kernels for config in shipped(kernel)]
    tiles = [tile(*each, sampled) for each in found for sampled in (False, True)]
    blocks = {config["BLOCK_N"] for _, config in found}
    return [*tiles, *(merged(block) for block in sorted(blocks))]


CASES = _cases()
