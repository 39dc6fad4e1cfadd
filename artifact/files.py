"""Artifacts on disk: written whole or not at all, checked before anything of them is used."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from dllmc.artifact.graph import graph_from_json, graph_to_json, weights_of
from dllmc.artifact.package import Package
from dllmc.spec import ArtifactError, DenoiserSpec

FORMAT_VERSION = 1
_MANIFEST, _WEIGHTS, _TOKENIZER = "manifest.json", "weights.safetensors", "tokenizer.json"
_RECORDS, _NOTICES = "records.json", "NOTICES.txt"


class Manifest(BaseModel):
    """`manifest.json`.

    Attributes:
        format_version: Of the layout; another one is refused.
        dllmc: Version that wrote the artifact.
        torch: Version that captured the graphs.
        name: Of the model.
        backend: How steps run.
        target: Device kind that the graphs were lowered for.
        dtype: Of weights and activations.
        spec: Of the denoiser.
        weights_sha256: Hash of the weights' names and contents.
        programs: Graph files by statistics set.
        report: What each pass did.
        files: sha256 of every other file, by its relative path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int
    dllmc: str
    torch: str
    name: str
    backend: Literal["eager", "inductor"]
    target: Literal["cpu", "cuda"]
    dtype: Literal["float32", "float64", "bfloat16", "float16"]
    spec: DenoiserSpec
    weights_sha256: str
    programs: dict[str, str]
    report: list[dict[str, Any]]
    files: dict[str, str]


def save_package(package: Package, path: str | Path, *, target: str = "cpu") -> Path:
    """Write `package` as the folder `path`, replacing an artifact that stands there.

    The folder appears whole: it is written beside its place and renamed.

    Raises:
        ArtifactError: Something that is no artifact stands at `path`.
    """
    destination = Path(path)
    if destination.exists() and not (destination / _MANIFEST).is_file():
        raise ArtifactError(f"`{destination}` exists and is no artifact; choose another path")
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        _write(package, staging, target)
        staging.chmod(0o755)
        retired = staging.with_suffix(".old")
        if destination.exists():
            os.replace(destination, retired)
        os.replace(staging, destination)
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return destination


def load_package(path: str | Path) -> Package:
    """Read an artifact.

    Version and target are checked first, then the hash of every file, and only then is anything
    built. Nothing is unpickled.

    Raises:
        ArtifactError: The folder is no artifact, is damaged, or is of another format version.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    for name, expected in manifest.files.items():
        _check_file(folder, name, expected)
    try:
        weights = load_file(folder / _WEIGHTS)
    except SafetensorError as error:
        raise ArtifactError(f"`{folder / _WEIGHTS}` is damaged: {error}; compile again") from None
    graphs = {
        statistics: graph_from_json(json.loads((folder / file).read_text()), weights)
        for statistics, file in manifest.programs.items()
    }
    tokenizer = folder / _TOKENIZER
    notices = folder / _NOTICES
    return Package(
        name=manifest.name,
        spec=manifest.spec,
        dtype=manifest.dtype,
        backend=manifest.backend,
        graphs=graphs,
        weights_sha256=manifest.weights_sha256,
        tokenizer=Tokenizer.from_file(str(tokenizer)) if tokenizer.is_file() else None,
        report=manifest.report,
        records=json.loads((folder / _RECORDS).read_text()),
        notices=notices.read_text() if notices.is_file() else "",
    )


def add_records(path: str | Path, records: list[dict[str, Any]]) -> None:
    """Put tuning records into the artifact at `path`, replacing those of the same `id`.

    Raises:
        ArtifactError: The folder is no artifact of this version.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    _check_file(folder, _RECORDS, manifest.files[_RECORDS])
    known = {record["id"]: record for record in json.loads((folder / _RECORDS).read_text())}
    known |= {record["id"]: record for record in records}
    text = json.dumps(list(known.values()), indent=1, sort_keys=True)
    _write_atomically(folder / _RECORDS, text)
    hashes = {**manifest.files, _RECORDS: hashlib.sha256(text.encode()).hexdigest()}
    updated = manifest.model_copy(update={"files": hashes})
    _write_atomically(folder / _MANIFEST, updated.model_dump_json(indent=1))


def hash_weights(weights: dict[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and contents, in order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(package: Package, folder: Path, target: str) -> None:
    weights = weights_of(*package.graphs.values())
    save_file({k: v.cpu().contiguous() for k, v in weights.items()}, folder / _WEIGHTS)
    (folder / "programs").mkdir()
    programs = {}
    for statistics, graph in package.graphs.items():
        programs[statistics] = f"programs/{statistics}.json"
        (folder / programs[statistics]).write_text(json.dumps(graph_to_json(graph)))
    if package.tokenizer is not None:
        package.tokenizer.save(str(folder / _TOKENIZER))
    if package.notices:
        (folder / _NOTICES).write_text(package.notices)
    (folder / _RECORDS).write_text(json.dumps(package.records, indent=1, sort_keys=True))
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        dllmc=importlib.metadata.version("dllmc"),
        torch=torch.__version__,
        name=package.name,
        backend=package.backend,
        target=target,
        dtype=package.dtype,
        spec=package.spec,
        weights_sha256=package.weights_sha256,
        programs=programs,
        report=package.report,
        files={str(file.relative_to(folder)): _hash_file(file) for file in written},
    )
    (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=1))


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise ArtifactError(f"there is no artifact at `{folder}`; `dllmc compile` makes one")
    try:
        data = json.loads((folder / _MANIFEST).read_text())
        version = data["format_version"]
    except FileNotFoundError:
        raise ArtifactError(f"`{folder}` has no {_MANIFEST}; it is no artifact") from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise ArtifactError(f"`{folder / _MANIFEST}` is damaged; compile again") from None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"`{folder}` has artifact format {version} and this dllmc reads {FORMAT_VERSION}; "
            f"compile again, or use the dllmc that wrote it ({data.get('dllmc', 'unknown')})"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"`{folder / _MANIFEST}` is damaged at `{field}`: {first['msg']}; compile again"
        ) from None


def _check_file(folder: Path, name: str, expected: str) -> None:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"the artifact `{folder}` names the file `{name}` outside itself")
    if not file.is_file():
        raise ArtifactError(
            f"the artifact `{folder}` lacks `{name}`; copy it whole or compile again"
        )
    if _hash_file(file) != expected:
        raise ArtifactError(
            f"`{file}` is not the file that was written (its hash differs); copy the artifact "
            "again or compile again"
        )


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_atomically(file: Path, text: str) -> None:
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
