from __future__ import annotations

from compiled.case import Case, launched
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.write_cache import write

_AXES = {
    "k": ("batch", "head", "row"),
    "v": ("batch", "head", "row"),
    "keys": ("batch", "head", "slot"),
    "values": ("batch", "head", "slot"),
}
_STRIDES = {f"{tensor}_{axis}": "i32" for tensor, axes in _AXES.items() for axis in axes}
_TYPES = {
    **dict.fromkeys(_AXES, "*bf16"),
    "places": "*i64",
    **dict.fromkeys(("rows", "groups", "slots", "place_batch"), "i32"),
    **_STRIDES,
}
_DENSE = dict.fromkeys(("place_row", *(f"{tensor}_lane" for tensor in _AXES)), 1)


def _case(config: dict[str, int], width: int) -> Case:
    constants, options = launched(config)
    heads = constants.pop("BLOCK") // width
    widths = dict.fromkeys(("WIDTH", "VALUE_WIDTH", "PADDED", "VALUE_PADDED"), width)
    held = {**_DENSE, **widths, "HEADS": heads}
    name = f"write_cache {config} {width}"
    return Case(name, write, _TYPES, held, options, aligned=tuple(_STRIDES))


CASES = [_case(config, width) for config in shipped("write_cache") for width in (64, 128)]
