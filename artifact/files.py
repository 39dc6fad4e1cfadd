"""Artifacts on disk: written whole or not at all, checked before anything of them is used."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from dllmc.artifact._manifest import (
    BINARIES,
    ENGINES,
    EXPORTS,
    FORMAT_VERSION,
    MANIFEST,
    NOTICES,
    SPECIAL_TOKENS,
    TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    Manifest,
    check_file,
    hash_file,
    is_artifact,
    listed_files,
    read_json,
    read_manifest,
    sealed,
    write_atomically,
)
from dllmc.artifact.binaries import Binaries, Listing
from dllmc.artifact.chat import ChatTemplate
from dllmc.artifact.engines import read_engines
from dllmc.artifact.exports import read_exports, write_exports
from dllmc.artifact.graph import graph_from_json, graph_to_json, weights_of
from dllmc.artifact.package import Package
from dllmc.artifact.signature import SIGNATURE, check_signature
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds after which a folder beside its place counts as left by a writer that was killed: none
# takes that long to copy the weights.
_LEFT_AFTER = 24 * 3600.0


def save_package(package: Package, path: str | Path, *, target: str | None = None) -> Path:
    """Write `package` as the folder `path`, replacing an artifact that stands there.

    The folder appears whole: it is written beside its place and renamed. If that fails, what
    stood there stands there still.

    Args:
        package: From a compilation.
        path: Of the folder.
        target: Device kind that the graphs were lowered for; None is where the weights are.

    Raises:
        ArtifactError: Something that is no artifact stands at `path`, or files in it that are
            not the artifact's.
    """
    destination = Path(path)
    with appearing(destination) as staging:
        _write(package, staging, target)
    return destination


@contextlib.contextmanager
def appearing(destination: Path) -> Iterator[Path]:
    """A folder to write an artifact into, which takes the place of `destination` when it is whole.

    Raises:
        ArtifactError: As for `save_package`.
    """
    check_replaceable(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(destination)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    retired = staging.with_name(f"{staging.name}.old")
    try:
        yield staging
        staging.chmod(0o755)
        _take_place(staging, destination, retired)
    except BaseException:
        if retired.exists() and not destination.exists():
            os.replace(retired, destination)
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _take_place(staging: Path, destination: Path, retired: Path) -> None:
    """Rename `staging` to `destination`, and again where another writer has been faster."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.replace(destination, retired)
        try:
            os.replace(staging, destination)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            shutil.rmtree(retired, ignore_errors=True)
            return
        shutil.rmtree(retired, ignore_errors=True)


def _remove_leftovers(destination: Path) -> None:
    """Remove what writers have left that were killed long ago."""
    for folder in destination.parent.glob(f".{glob.escape(destination.name)}-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _LEFT_AFTER:
                shutil.rmtree(folder)


def load_package(path: str | Path, *, public_key: str | Path | None = None) -> Package:
    """Read an artifact.

    Version and target are checked first, then the hash of every file, and only then is anything
    built. Nothing is unpickled, and no file is read that the manifest does not list.

    Args:
        path: Of the folder.
        public_key: PEM file of the key that must have signed it; None is any.

    Raises:
        ArtifactError: The folder is no artifact, is damaged, is of another format version, or is
            not signed with the key.
        UsageError: The key cannot be read.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if public_key is not None:
        check_signature(folder, public_key)
    for name, expected in manifest.files.items():
        check_file(folder, name, expected)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ArtifactError(f"`{folder / WEIGHTS}` is damaged: {error}; compile again") from None
    graphs = {
        statistics: graph_from_json(read_json(folder / file), weights)
        for statistics, file in manifest.programs.items()
    }
    listed = manifest.files
    return Package(
        name=manifest.name,
        spec=manifest.spec,
        dtype=manifest.dtype,
        backend=manifest.backend,
        graphs=graphs,
        weights_sha256=manifest.weights_sha256,
        tokenizer=_read_tokenizer(folder / TOKENIZER) if TOKENIZER in listed else None,
        chat=_read_chat(folder) if TEMPLATE in listed else None,
        report=manifest.report,
        records=read_records(folder, manifest),
        binaries=None if manifest.binaries is None else read_binaries(folder, manifest.binaries),
        precision=manifest.precision,
        engines=None if manifest.engines is None else read_engines(folder, manifest.engines),
        exports=None if manifest.exports is None else read_exports(folder, manifest.exports),
        notices=(folder / NOTICES).read_text(encoding="utf-8") if NOTICES in listed else "",
    )


def add_records(path: str | Path, records: list[dict[str, Any]]) -> None:
    """Put tuning records into the artifact at `path`, replacing those of the same `id`.

    Whenever this is interrupted, the artifact is whole, with the old records or the new.

    Raises:
        ArtifactError: The folder is no artifact of this version.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_file(folder, manifest.records, manifest.files[manifest.records])
    known = {record["id"]: record for record in read_records(folder, manifest)}
    known |= {record["id"]: record for record in records}
    name, digest, text = _records_file(list(known.values()))
    write_atomically(folder / name, text)
    hashes = {k: v for k, v in manifest.files.items() if k != manifest.records} | {name: digest}
    updated = manifest.model_copy(update={"files": hashes, "records": name})
    write_atomically(folder / MANIFEST, sealed(updated).model_dump_json(indent=1))
    if name != manifest.records:
        (folder / manifest.records).unlink(missing_ok=True)


def hash_weights(weights: dict[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and contents, in order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_replaceable(path: str | Path) -> None:
    """See that an artifact may be written at `path`, before the work of making one.

    Raises:
        ArtifactError: As for `save_package`.
    """
    destination = Path(path)
    while True:
        folder = _identity(destination)
        if folder is None:
            return
        try:
            reason = _why_not_replaced(destination)
        except FileNotFoundError:
            continue
        # Another writer may have replaced it in the middle.
        if _identity(destination) == folder:
            break
    if reason is not None:
        raise ArtifactError(reason)


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _why_not_replaced(destination: Path) -> str | None:
    if not is_artifact(destination):
        return f"`{destination}` exists and is no artifact; choose another path"
    files = {str(f.relative_to(destination)) for f in destination.rglob("*") if not f.is_dir()}
    # An interrupted `add_records` may have left a file of its own.
    known = {*listed_files(destination), SIGNATURE}
    strangers = {name for name in files - known if not name.startswith("records-")}
    if not strangers:
        return None
    return (
        f"`{destination}` holds `{min(strangers)}`, which is not the artifact's and would be "
        "lost; move it, or choose another path"
    )


def save_exports(package: Package, folder: Path) -> None:
    """Write the exported programs of `package` into the empty `folder`, with what they read.

    Beside the models stand `weights.safetensors`, and `programs.json`: what each takes and gives.
    """
    assert package.exports is not None
    _write_weights(weights_of(*package.graphs.values()), folder)
    write_exports(package.exports, folder, WEIGHTS)
    (folder / "programs.json").write_text(package.exports.listing.model_dump_json(indent=1))


def _write_weights(weights: dict[str, torch.Tensor], folder: Path) -> None:
    # Clones, since the format refuses tensors that share memory.
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, folder / WEIGHTS
    )
    # Safetensors lets nobody but the owner read it.
    (folder / WEIGHTS).chmod(0o644)


def _write(package: Package, folder: Path, target: str | None) -> None:
    weights = weights_of(*package.graphs.values())
    if target is None:
        target = next(iter(weights.values())).device.type
    _write_weights(weights, folder)
    (folder / "programs").mkdir()
    programs = {}
    for statistics, graph in package.graphs.items():
        programs[statistics] = f"programs/{statistics}.json"
        (folder / programs[statistics]).write_text(json.dumps(graph_to_json(graph)))
    if package.binaries is not None:
        for name, file in package.binaries.files.items():
            shutil.copyfile(file, folder / name)
        listing = package.binaries.listing.model_dump_json(indent=1)
        (folder / BINARIES).write_text(listing)
    if package.engines is not None:
        for name, file in package.engines.files.items():
            shutil.copyfile(file, folder / name)
        (folder / ENGINES).write_text(package.engines.listing.model_dump_json(indent=1))
    if package.exports is not None:
        write_exports(package.exports, folder, WEIGHTS)
        (folder / EXPORTS).write_text(package.exports.listing.model_dump_json(indent=1))
    if package.tokenizer is not None:
        package.tokenizer.save(str(folder / TOKENIZER))
    if package.chat is not None:
        # With the line ends that it has: a template is text down to the last character.
        (folder / TEMPLATE).write_text(package.chat.text, encoding="utf-8", newline="")
        (folder / SPECIAL_TOKENS).write_text(json.dumps(dict(package.chat.special_tokens)))
    if package.notices:
        (folder / NOTICES).write_text(package.notices, encoding="utf-8")
    records, _, text = _records_file(package.records)
    (folder / records).write_text(text)
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = Manifest.model_validate(
        {
            "format_version": FORMAT_VERSION,
            "dllmc": importlib.metadata.version("dllmc"),
            "torch": torch.__version__,
            "name": package.name,
            "backend": package.backend,
            "target": target,
            "dtype": package.dtype,
            "spec": package.spec,
            "weights_sha256": package.weights_sha256,
            "programs": programs,
            "records": records,
            "binaries": None if package.binaries is None else BINARIES,
            "precision": package.precision,
            "engines": None if package.engines is None else ENGINES,
            "exports": None if package.exports is None else EXPORTS,
            "report": package.report,
            "files": {file.relative_to(folder).as_posix(): hash_file(file) for file in written},
        }
    )
    (folder / MANIFEST).write_text(sealed(manifest).model_dump_json(indent=1))


def _records_file(records: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Name, hash and content of the file that holds `records`."""
    text = json.dumps(records, indent=1, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"records-{digest[:16]}.json", digest, text


def read_binaries(folder: Path, name: str) -> Binaries:
    try:
        listing = Listing.model_validate(read_json(folder / name))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(f"`{folder / name}` is damaged at `{field}`; compile again") from None
    files = {}
    for library in listing.pieces.values():
        for file in (library, library.removesuffix(".so") + ".json"):
            if (folder / file).is_file():
                files[file] = folder / file
        if library not in files:
            raise ArtifactError(f"the artifact `{folder}` lacks `{library}`; compile again")
    return Binaries(listing, files)


def read_records(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    records = read_json(folder / manifest.records)
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise ArtifactError(f"`{folder / manifest.records}` is damaged; compile again")
    return records


def _read_tokenizer(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"`{file}` is damaged: {error}; compile again") from None


def _read_chat(folder: Path) -> ChatTemplate:
    special = read_json(folder / SPECIAL_TOKENS)
    if not isinstance(special, dict) or not all(isinstance(t, str) for t in special.values()):
        raise ArtifactError(f"`{folder / SPECIAL_TOKENS}` is damaged; compile again")
    try:
        text = (folder / TEMPLATE).read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ArtifactError(f"`{folder / TEMPLATE}` is damaged; compile again") from None
    return ChatTemplate(text, special)
