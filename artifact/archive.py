"""An artifact as one file: the same artifact gives the same bytes, wherever it is packed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dllmc.artifact._manifest import (
    MANIFEST,
    check_file,
    check_name,
    is_artifact,
    listed_files,
    read_manifest,
)
from dllmc.artifact.files import appearing
from dllmc.artifact.signature import SIGNATURE
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODE = 0o644


def pack(artifact: str | Path, archive: str | Path) -> Path:
    """Write the artifact folder as one uncompressed tar file.

    What the manifest does not list is left out, but for a signature. Names are sorted, and times,
    owners and modes are the same for all, so that the bytes follow from the content alone.

    Args:
        artifact: Folder, of which every file is checked first.
        archive: To write; it appears whole, replacing what stands there if that is a file.

    Raises:
        ArtifactError: The artifact is damaged or none, or the archive cannot be written.
    """
    folder, destination = Path(artifact), Path(archive)
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        check_file(folder, name, expected)
    if destination.is_dir():
        raise ArtifactError(f"`{destination}` is a folder; give the name of a file")
    with _appearing(destination) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        signed = [SIGNATURE] if (folder / SIGNATURE).is_file() else []
        for name in (MANIFEST, *sorted([*manifest.files, *signed])):
            with (folder / name).open("rb") as content:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = (folder / name).stat().st_size, _MODE
                tar.addfile(entry, content)
    return destination


def unpack(archive: str | Path, artifact: str | Path) -> Path:
    """Write the artifact that `pack` put into `archive` as a folder.

    The folder appears whole, after every file was checked. Nothing but plain files inside the
    artifact is taken out of the archive.

    Args:
        archive: From `pack`.
        artifact: Folder to write; an artifact that stands there is replaced.

    Raises:
        ArtifactError: The archive is damaged or no artifact's, or something that is no artifact
            stands at `artifact`.
    """
    source, destination = Path(archive), Path(artifact)
    if not source.is_file():
        raise ArtifactError(f"there is no file `{source}`; `dllmc pack` makes one")
    with appearing(destination) as staging:
        _extract(source, staging)
        _check_unpacked(staging, source)
    return destination


def _extract(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source, mode="r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    raise ArtifactError(
                        f"`{source}` holds `{entry.name}`, which is no plain file; do not use it"
                    )
                if entry.name != MANIFEST:
                    check_name(source, entry.name)
                target = folder / entry.name
                if target.exists():
                    raise ArtifactError(f"`{source}` holds `{entry.name}` twice; do not use it")
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(entry)
                assert content is not None
                with target.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
                target.chmod(_MODE)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ArtifactError(
            f"`{source}` is damaged or no packed artifact ({error}); copy it again"
        ) from None
    except OSError as error:
        raise ArtifactError(f"`{source}` cannot be unpacked ({error}); copy it again") from None


def _check_unpacked(folder: Path, source: Path) -> None:
    if not is_artifact(folder):
        raise ArtifactError(f"`{source}` holds no artifact, or its manifest is damaged")
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        check_file(folder, name, expected)
    found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    strangers = found - listed_files(folder) - {SIGNATURE}
    if strangers:
        raise ArtifactError(
            f"`{source}` holds `{min(strangers)}`, which the manifest does not list; do not use it"
        )


@contextlib.contextmanager
def _appearing(destination: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}-")
    except OSError as error:
        raise ArtifactError(
            f"`{destination}` cannot be written ({error.strerror}); choose another place"
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, _MODE)
        os.replace(part, destination)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
