"""What a kernel is compiled for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Case:
    """A kernel with the types of its arguments.

    Attributes:
        name: Tells it apart.
        kernel: The function.
        types: By argument, `*bf16` or `i32`, of those that are no constants.
        constants: By argument.
        options: Warps and stages.
        capabilities: Of the GPUs that it is shipped for.
        unaligned: Pointers that are no multiples of 16.
        aligned: Sizes and strides that are multiples of 16.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, int] = field(default_factory=dict)
    capabilities: tuple[int, ...] = (80, 90)
    unaligned: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()


def launched(config: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Constants and options of a configuration of the table."""
    options = {n: value for n, value in config.items() if n.startswith("num_")}
    return {n: value for n, value in config.items() if n not in options}, options
