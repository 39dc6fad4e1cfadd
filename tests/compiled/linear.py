from __future__ import annotations

from compiled.case import Case, launched
from dllmc.kernels._triton.configurations import FALLBACK, shipped
from dllmc.kernels._triton.linear import _part, _sum

_SIZES = ("rows", "outputs", "depth", "group", "x_stride", "weight_stride")
# Type of the rows, type and bits of the weight, by name in the table.
_KINDS = {
    "linear": ("bf16", "bf16", 16),
    "linear_float32": ("fp32", "fp32", 16),
    "int8_linear": ("bf16", "i8", 8),
    "int4_linear": ("bf16", "u8", 4),
}


def part(kernel: str, config: dict[str, int], splits: int) -> Case:
    constants, options = launched(config)
    constants.pop("SPLITS", None)
    kind, weight, bits = _KINDS[kernel]
    types = {"x": f"*{kind}", "weight": f"*{weight}", "out": f"*{kind}", "bias": f"*{kind}"}
    types |= dict.fromkeys(_SIZES, "i32")
    held: dict[str, object] = {**constants, "SPLITS": splits, "EVEN": True, "BITS": bits}
    if splits > 1:
        types["out"] = "*fp32"
        held["bias"] = None
    if bits == 16:
        held["scales"] = None
    else:
        types["scales"] = f"*{kind}"
    word = "sums" if kernel == "linear_float32" else "product"
    name = f"{kernel} {word} {config} splits={splits}"
    everywhere = config in shipped(kernel, FALLBACK)
    capabilities = (80, 90) if everywhere else (90,)
    return Case(name, _part, types, held, options, capabilities, aligned=_SIZES)


def _cases() -> list[Case]:
    found = [
        part(kernel, config, splits)
        for kernel in _KINDS
        for config in shipped(kernel)
        for splits in (1, 4)
    ]
    types = {"parts": "*fp32", "bias": "*bf16", "out": "*bf16", "size": "i32", "outputs": "i32"}
    held = {"SPLITS": 4, "BLOCK": 1024}
    return [*found, Case("sum of parts", _sum, types, held, {}, aligned=("size", "outputs"))]


CASES = _cases()
