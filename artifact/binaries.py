"""Ahead-of-time programs: machine code of the pieces of steps, and how a step calls them.

A piece is a shared library that AOTInductor made. It holds no weights: they are arguments, as
inputs and caches are, so that all programs read one copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Size = int | Literal["batch", "rows", "head_rows", "slots"]
"""Of an axis: a number, or that of a plan; `slots` are those of a cache with its scratch slots."""

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class Target(BaseModel):
    """What machine code was made for.

    Attributes:
        device: Kind of device.
        machine: As `platform.machine` spells it.
        isa: Instruction set: `x86-64-v3`, or `native` of the machine that compiled.
        features: Of the processor that must be there, as Linux names them; of a GPU its
            architecture alone, as in `sm_90`.
        torch: Version that it was compiled with and runs in, as in `2.13`.
    """

    model_config = _FROZEN

    device: Literal["cpu", "cuda"]
    machine: str
    isa: Literal["x86-64-v3", "native"]
    features: tuple[str, ...]
    torch: str


class Input(BaseModel):
    """What a program takes.

    Attributes:
        dtype: As torch spells it.
        sizes: Of every axis; it is contiguous.
    """

    model_config = _FROZEN

    dtype: str
    sizes: tuple[Size, ...]


class Call(BaseModel):
    """A call of a piece.

    Attributes:
        piece: Its name.
        takes: Its arguments in order: `value:3` is what stands in a place, `weight:name` a weight.
        gives: Pairs of a result's number and the place that it goes to.
    """

    model_config = _FROZEN

    piece: str
    takes: tuple[str, ...]
    gives: tuple[tuple[int, int], ...]


class Program(BaseModel):
    """A step for any sizes.

    Attributes:
        statistics: Statistics set of its plans.
        mask: Of its plans.
        inputs: Of its plans.
        saliency: Of its plans.
        single: Whether it is for batch 1; if not, for larger batches.
        takes: By name, in the order of the first places.
        calls: Of pieces, in order.
        gives: Places of its results.
    """

    model_config = _FROZEN

    statistics: str
    mask: str
    inputs: str
    saliency: bool
    single: bool
    takes: dict[str, Input]
    calls: tuple[Call, ...]
    gives: tuple[int, ...]

    @property
    def kind(self) -> tuple[object, ...]:
        """What tells it apart from others."""
        return self.statistics, self.mask, self.inputs, self.saliency, self.single


class Listing(BaseModel):
    """`programs/aot.json`.

    Attributes:
        target: What the machine code runs on.
        pieces: Shared library of each piece, by name; its operators that are not in torch stand
            in a file of the same name that ends in `.json`.
        programs: Of which no two are of one kind.
    """

    model_config = _FROZEN

    target: Target
    pieces: dict[str, str]
    programs: tuple[Program, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Binaries:
    """Ahead-of-time programs and their files.

    Attributes:
        listing: What there is.
        files: Where each file of the pieces is now, by the name that it has in an artifact.
    """

    listing: Listing
    files: Mapping[str, Path]
