"""Parameters that are made of several stored tensors, such as the experts of a layer.

A denoiser declares them in `stored_as`: by parameter, for each entry of its first axis, the
stored tensors whose rows make up that entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

Stacks = Mapping[str, tuple[tuple[str, ...], ...]]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stored tensor goes: `parameter[entry, rows]`."""

    parameter: str
    entry: int
    rows: slice


def places(stacks: Stacks, shapes: Shapes) -> dict[str, Place]:
    """The place of each stored tensor, for parameters of these shapes."""
    found: dict[str, Place] = {}
    for parameter, entries in stacks.items():
        for entry, names in enumerate(entries):
            rows = shapes[parameter][1] // len(names)
            for number, name in enumerate(names):
                found[name] = Place(parameter, entry, slice(number * rows, (number + 1) * rows))
    return found


def stored_shapes(shapes: Shapes, placed: Mapping[str, Place]) -> dict[str, tuple[int, ...]]:
    """Shapes by stored tensor, for parameters of these shapes."""
    stacked = {place.parameter for place in placed.values()}
    stored = {name: shape for name, shape in shapes.items() if name not in stacked}
    for name, place in placed.items():
        stored[name] = (place.rows.stop - place.rows.start, *shapes[place.parameter][2:])
    return stored


def stack(
    tensors: Iterable[tuple[str, Tensor]], shapes: Shapes, placed: Mapping[str, Place]
) -> dict[str, Tensor]:
    """Parameters by name. No more than one stored tensor is held beside them."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        place = placed.get(name)
        if place is None:
            found[name] = tensor
            continue
        whole = place.parameter
        if whole not in found:
            found[whole] = tensor.new_empty(shapes[whole])
        found[whole][place.entry, place.rows] = tensor
    return found
