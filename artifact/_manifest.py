"""`manifest.json`: what an artifact holds, and the hash of every file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dllmc.spec import ArtifactError, DenoiserSpec

FORMAT_VERSION = 1
MANIFEST, WEIGHTS, TOKENIZER, NOTICES = (
    "manifest.json",
    "weights.safetensors",
    "tokenizer.json",
    "NOTICES.txt",
)
BINARIES = "programs/aot.json"
EXPORTS = "programs/onnx.json"
ENGINES = "programs/tensorrt.json"
# As in a checkpoint, so that the two files mean the same wherever they stand.
TEMPLATE, SPECIAL_TOKENS = "chat_template.jinja", "special_tokens_map.json"
_FORMAT: Literal["dllmc artifact"] = "dllmc artifact"


class Manifest(BaseModel):
    """`manifest.json`.

    Attributes:
        format: Tells it apart from the manifests of other things.
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
        records: File of the tuning records. Its name follows from its content, so that
            replacing the manifest replaces both at once.
        report: What each pass did.
        files: sha256 of every other file, by its relative path. Only these are ever read.
        binaries: File that lists ahead-of-time programs, if there are any.
        exports: File that lists programs for ONNX runtimes, if there are any.
        precision: What weights were rounded to, if they were.
        engines: File that lists TensorRT engines, if there are any.
        sha256: Of everything above, see `sealed`; artifacts of early versions have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["dllmc artifact"] = _FORMAT
    format_version: int
    dllmc: str
    torch: str
    name: str
    backend: Literal["eager", "inductor", "aot", "onnxruntime", "tensorrt"]
    target: Literal["cpu", "cuda"]
    dtype: Literal["float32", "float64", "bfloat16", "float16"]
    spec: DenoiserSpec
    weights_sha256: str
    programs: dict[str, str] = Field(min_length=1)
    records: str
    report: list[dict[str, Any]]
    files: dict[str, str]
    binaries: str | None = None
    exports: str | None = None
    precision: str | None = None
    engines: str | None = None
    sha256: str | None = None

    def missing(self) -> list[str]:
        """Files that must be listed and are not."""
        needed = [WEIGHTS, self.records, *self.programs.values()]
        needed += [
            name for name in (self.binaries, self.exports, self.engines) if name is not None
        ]
        return [name for name in needed if name not in self.files]


def sealed(manifest: Manifest) -> Manifest:
    """`manifest` with the hash of its content, which shows that nothing in it was changed."""
    return manifest.model_copy(update={"sha256": _hash_content(manifest)})


def _hash_content(manifest: Manifest) -> str:
    # A field that came later counts where it is set: older artifacts were hashed without it.
    later = ("exports", "precision", "engines")
    left_out = {"sha256", *(name for name in later if getattr(manifest, name) is None)}
    content = manifest.model_dump_json(exclude=left_out)
    return hashlib.sha256(content.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`.

    Raises:
        ArtifactError: There is none, or it is damaged or of another version.
    """
    if not folder.is_dir():
        raise ArtifactError(f"there is no artifact at `{folder}`; `dllmc compile` makes one")
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"`{folder}` has no {MANIFEST}; it is no artifact")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ArtifactError(f"`{path}` is not that of an artifact; give an artifact's folder")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"`{folder}` has artifact format {version} and this dllmc reads {FORMAT_VERSION} "
            f"(says {MANIFEST}); compile again, or use the dllmc that wrote it "
            f"({data.get('dllmc', 'unknown')})"
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"`{path}` is damaged at `{field}`: {first['msg']}; compile again"
        ) from None
    if manifest.sha256 not in (None, _hash_content(manifest)):
        raise ArtifactError(
            f"`{path}` is not as it was written (its hash differs); copy the artifact again or "
            "compile again"
        )
    if manifest.missing():
        names = ", ".join(manifest.missing())
        raise ArtifactError(f"`{path}` has no hash of {names}; compile again")
    return manifest


def is_artifact(folder: Path) -> bool:
    """Whether `folder` holds an artifact, of whatever version."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("format") == _FORMAT


def listed_files(folder: Path) -> set[str]:
    """Names in the manifest of an artifact of whatever version, its own among them."""
    data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    files = data.get("files")
    return {MANIFEST, *(files if isinstance(files, dict) else ())}


def check_name(folder: Path, name: str) -> None:
    """Raise `ArtifactError` unless `name` is that of a file inside an artifact."""
    if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
        raise ArtifactError(f"the artifact `{folder}` names the file `{name}` outside itself")
    if name == MANIFEST or "\\" in name or "\0" in name:
        raise ArtifactError(
            f"the artifact `{folder}` names {name!r}, which is no file of an artifact; do not use "
            "it"
        )


def check_file(folder: Path, name: str, expected: str) -> None:
    """Raise `ArtifactError` unless `name` is the file of `folder` that was written."""
    check_name(folder, name)
    file = folder / name
    for part in (Path(name), *Path(name).parents[:-1]):
        # A link could be pointed elsewhere after the hash was taken.
        if (folder / part).is_symlink():
            raise ArtifactError(
                f"`{folder / part}` in the artifact is a link; copy the artifact with what it "
                "points to (`cp -rL`)"
            )
    if not file.is_file():
        raise ArtifactError(
            f"the artifact `{folder}` lacks `{name}`; copy it whole or compile again"
        )
    if hash_file(file) != expected:
        raise ArtifactError(
            f"`{file}` is not the file that was written (its hash differs); copy the artifact "
            "again or compile again"
        )


def read_json(file: Path) -> Any:
    """The values of a JSON file.

    Raises:
        ArtifactError: It is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ArtifactError(f"`{file}` is damaged; compile again") from None


def hash_file(file: Path) -> str:
    """sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(file: Path, text: str) -> None:
    """Write `file` whole or not at all."""
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, 0o644)
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
