"""What an artifact is, from its manifest and small files: weights are not read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllmc.artifact._manifest import NOTICES, WEIGHTS, Manifest, check_file, read_manifest
from dllmc.artifact.engines import read_engines
from dllmc.artifact.exports import read_exports
from dllmc.artifact.files import read_binaries, read_records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.artifact.binaries import Listing
    from dllmc.artifact.engines import EngineListing
    from dllmc.artifact.exports import ExportListing


@dataclass(frozen=True)
class Summary:
    """An artifact without its weights.

    Attributes:
        manifest: What it says of itself.
        sizes: Bytes of every file.
        records: Tuning records that it ships, as JSON values.
        listing: Its ahead-of-time programs, or None.
        exports: Its ONNX programs, or None.
        engines: Its TensorRT engines, or None.
        notices: Licence notes.
    """

    manifest: Manifest
    sizes: Mapping[str, int]
    records: list[dict[str, Any]]
    listing: Listing | None
    exports: ExportListing | None
    engines: EngineListing | None
    notices: str


def summarise(path: str | Path) -> Summary:
    """What the artifact at `path` is; every file but the weights is checked.

    Raises:
        ArtifactError: The folder is no artifact, or a file is damaged or missing.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        if name != WEIGHTS:
            check_file(folder, name, expected)
    sizes = {
        name: (folder / name).stat().st_size if (folder / name).is_file() else 0
        for name in manifest.files
    }
    binaries = manifest.binaries and read_binaries(folder, manifest.binaries)
    exports = manifest.exports and read_exports(folder, manifest.exports)
    engines = manifest.engines and read_engines(folder, manifest.engines)
    has_notices = NOTICES in manifest.files
    return Summary(
        manifest=manifest,
        sizes=sizes,
        records=read_records(folder, manifest),
        listing=binaries.listing if binaries else None,
        exports=exports.listing if exports else None,
        engines=engines.listing if engines else None,
        notices=(folder / NOTICES).read_text(encoding="utf-8") if has_notices else "",
    )
