from __future__ import annotations

from compiled.case import Case, launched
from dllmc.kernels._triton.attention import attend
from dllmc.kernels._triton.attention_parts import merge
from dllmc.kernels._triton.configurations import shipped, table

STRIDES = {
    f"{tensor}_{axis}": "i32"
    for tensor, axes in {
        "q": ("batch", "head", "row"),
        "keys": ("batch", "head", "slot"),
        "values": ("batch", "head", "slot"),
        "mask": ("batch", "head", "row"),
    }.items()
    for axis in axes
}
_DENSE = ("q_lane", "keys_lane", "values_lane", "limit_row", "position_slot", "mask_slot")
_SIZES = dict.fromkeys(("rows", "groups", "repeats", "slots", "limit_batch"), "i32")


def _case(kernel: str, config: dict[str, int], limited: int, masked: int) -> Case:
    constants, options = launched(config)
    width = int(kernel.rpartition("_")[2])
    pointer = "*fp32" if "float32" in kernel else "*bf16"
    types = {
        **dict.fromkeys(("q", "keys", "values", "out"), pointer),
        **dict.fromkeys(("limits", "positions"), "*i64"),
        **dict.fromkeys(("parts", "sums"), "*fp32"),
        "mask": "*u8" if masked == 1 else pointer,
        "scale": "fp32",
        "position_batch": "i32",
        **_SIZES,
        **STRIDES,
    }
    widths = dict.fromkeys(("WIDTH", "VALUE_WIDTH", "PADDED", "VALUE_PADDED"), width)
    # A cache behind a limit is split, a whole canvas is not.
    splits = 1 if limited == 0 else 4
    held = {**constants, **widths, **dict.fromkeys(_DENSE, 1)}
    held |= {"SPLITS": splits, "LIMITED": limited, "MASKED": masked}
    name = f"{kernel} {config} limited={limited} masked={masked}"
    product = " product" if pointer == "*bf16" else ""
    return Case(name + product, attend, types, held, options, aligned=tuple(STRIDES))


def _merge(width: int, splits: int) -> Case:
    types = {"parts": "*fp32", "sums": "*fp32", "out": "*bf16"}
    widths = {"VALUE_WIDTH": width, "VALUE_PADDED": width}
    held = {**widths, "SPLITS": splits, "PADDED_SPLITS": splits}
    return Case(f"merge {splits} of {width}", merge, types, held)


CASES = [
    _case(kernel, config, limited, masked)
    for kernel in table()
    if kernel.startswith("attention")
    for config in shipped(kernel)
    for limited, masked in ((0, 0), (1, 1), (2, 2))
] + [_merge(width, splits) for width in (64, 128, 256) for splits in (2, 32)]
