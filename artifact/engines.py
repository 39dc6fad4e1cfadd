"""TensorRT engines of steps: their files, what they run on, and the sizes that they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dllmc.artifact._manifest import read_json
from dllmc.artifact.binaries import Input
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class SizeRange(BaseModel):
    """Sizes that an engine takes, and the one that it was tuned for.

    Attributes:
        least: Smallest.
        best: Tuned for.
        most: Largest.
    """

    model_config = _FROZEN

    least: int = Field(ge=0)
    best: int = Field(ge=0)
    most: int = Field(ge=1)


class EngineProgram(BaseModel):
    """A step.

    Attributes:
        statistics: Statistics set of its plans.
        mask: Of its plans.
        inputs: Of its plans.
        saliency: Of its plans.
        file: The serialised engine, by its name in the artifact.
        takes: By name, in the order of the engine's inputs.
        gives: In the order of the engine's outputs: those of a step, then the caches.
        caches: Inputs that are caches, in the order in which they come out.
    """

    model_config = _FROZEN

    statistics: str
    mask: str
    inputs: str
    saliency: bool
    file: str
    takes: dict[str, Input]
    gives: tuple[Input, ...]
    caches: tuple[str, ...]

    @property
    def kind(self) -> tuple[object, ...]:
        """What tells it apart from others."""
        return self.statistics, self.mask, self.inputs, self.saliency


class EngineListing(BaseModel):
    """`programs/tensorrt.json`.

    Attributes:
        architecture: Of the GPU that the engines were built on, as in `sm_90`.
        tensorrt: Version that built them and runs them.
        sizes: What they take, by `batch`, `rows`, `head_rows` and `slots`.
        programs: Of which no two are of one kind.
    """

    model_config = _FROZEN

    architecture: str
    tensorrt: str
    sizes: dict[str, SizeRange]
    programs: tuple[EngineProgram, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Engines:
    """Engines and their files; each holds the weights once more.

    Attributes:
        listing: What there is.
        files: Where each engine is now, by its name in an artifact.
    """

    listing: EngineListing
    files: Mapping[str, Path]


def read_engines(folder: Path, name: str) -> Engines:
    """The engines of the artifact `folder`, listed in its file `name`.

    Raises:
        ArtifactError: A file is damaged or missing.
    """
    try:
        listing = EngineListing.model_validate(read_json(folder / name))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(f"`{folder / name}` is damaged at `{field}`; compile again") from None
    files = {}
    for program in listing.programs:
        files[program.file] = folder / program.file
        if not files[program.file].is_file():
            raise ArtifactError(f"the artifact `{folder}` lacks `{program.file}`; compile again")
    return Engines(listing, files)
