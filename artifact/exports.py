"""Steps that were exported for another runtime: their files, and what each takes and gives.

An export reads the artifact's own `weights.safetensors`, which holds each tensor's bytes in one
run, as ONNX's external data does. So an artifact with exports is a folder that any ONNX runtime
opens, and the weights stand in it once.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dllmc.artifact._manifest import read_json
from dllmc.artifact.binaries import Input
from dllmc.spec import ArtifactError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class ExportedProgram(BaseModel):
    """A step for any sizes.

    Attributes:
        statistics: Statistics set of its plans.
        mask: Of its plans.
        inputs: Of its plans.
        saliency: Of its plans.
        file: The model, by its name in the artifact.
        takes: By name.
        gives: By name, those of a step and then the caches, in their order in `caches`.
        caches: Inputs that are caches; each comes out again as `present_` and its name.
        weights: Names in `weights.safetensors`, by the names that the model has for them.
    """

    model_config = _FROZEN

    statistics: str
    mask: str
    inputs: str
    saliency: bool
    file: str
    takes: dict[str, Input]
    gives: dict[str, Input]
    caches: tuple[str, ...]
    weights: dict[str, str]

    @property
    def kind(self) -> tuple[object, ...]:
        """What tells it apart from others."""
        return self.statistics, self.mask, self.inputs, self.saliency


class ExportListing(BaseModel):
    """`programs/onnx.json`.

    Attributes:
        format: Of the files.
        opset: Version of ONNX's operators.
        torch: Version that exported them.
        programs: Of which no two are of one kind.
    """

    model_config = _FROZEN

    format: Literal["onnx"] = "onnx"
    opset: int
    torch: str
    programs: tuple[ExportedProgram, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Exports:
    """Exported steps and their files.

    Attributes:
        listing: What there is.
        files: Content of each model, by its name in an artifact.
    """

    listing: ExportListing
    files: Mapping[str, bytes] = field(repr=False)


def write_exports(exports: Exports, folder: Path, weights: str) -> None:
    """Write the models of `exports` into `folder`, which holds their weights already.

    Args:
        exports: To be written.
        folder: Of the artifact.
        weights: Name of its safetensors file, in the same folder as the models.

    Raises:
        UsageError: The package `onnx` is missing.
    """
    onnx = _onnx()
    # Whoever has read the weights from an artifact has them with underscores for dots.
    layout = {_flat(name): span for name, span in layout_of(folder / weights).items()}
    for program in exports.listing.programs:
        model = onnx.load_model_from_string(exports.files[program.file])
        for tensor in model.graph.initializer:
            if tensor.name not in program.weights:
                continue
            start, length = layout[_flat(program.weights[tensor.name])]
            del tensor.external_data[:]
            for key, value in (("location", weights), ("offset", start), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
        (folder / program.file).write_bytes(model.SerializeToString(deterministic=True))


def read_exports(folder: Path, name: str) -> Exports:
    """The exports of the artifact `folder`, listed in its file `name`.

    Raises:
        ArtifactError: A file is damaged or missing.
    """
    try:
        listing = ExportListing.model_validate(read_json(folder / name))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(f"`{folder / name}` is damaged at `{field}`; compile again") from None
    files = {}
    for program in listing.programs:
        if not (folder / program.file).is_file():
            raise ArtifactError(f"the artifact `{folder}` lacks `{program.file}`; compile again")
        files[program.file] = (folder / program.file).read_bytes()
    return Exports(listing, files)


def layout_of(file: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor of a safetensors file starts, and how many bytes it has."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    spans = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (8 + length + start, end - start) for name, (start, end) in spans.items()}


def _flat(name: str) -> str:
    return name.replace(".", "__")


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UsageError(
            f"exports need `{error.name}`, which is not installed; pip install 'dllmc[onnx]'"
        ) from None
    return onnx
