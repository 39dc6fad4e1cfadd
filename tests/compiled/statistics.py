from __future__ import annotations

import triton
import triton.language as tl

from compiled.case import Case, launched
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.statistics import _split, merge

_SIZES = {
    "mask_id": "i32",
    "vocabulary": "i32",
    "rows": "i32",
    "batch_stride": "i64",
    "row_stride": "i32",
}
_PARTS = {"parts": "*fp32", "tokens_of_parts": "*i32"}


def _cases() -> list[Case]:
    found = []
    for config in shipped("statistics"):
        constants, options = launched(config)
        for sampled in (False, True):
            types = {"logits": "*bf16", **_PARTS, **_SIZES}
            held = {**constants, "SAMPLED": sampled, "WIDE": tl.float32}
            drawn = {"hashes": "*i64", "temperature": "*fp32"}
            if sampled:
                types |= drawn
            else:
                held |= dict.fromkeys(drawn)
            name = f"statistics {config} sampled={sampled}"
            found.append(Case(name, _split, types, held, options))
        results = {"ids": "*i64", "chosen": "*fp32", "tails": "*fp32"}
        splits = constants["SPLITS"]
        padded = triton.next_power_of_2(splits)
        held = {"SPLITS": splits, "PADDED": padded, "WIDE": tl.float32}
        types = {"logits": "*bf16", **_PARTS, **_SIZES, **results}
        found.append(Case(f"merge {splits}", merge, types, held, {"num_warps": 1}))
    return found


CASES = _cases()
