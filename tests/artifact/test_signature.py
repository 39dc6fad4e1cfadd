from __future__ import annotations

import builtins
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from graphs.toys import llada

from dllmc.artifact import load_package, save_package
from dllmc.artifact.archive import pack, unpack
from dllmc.artifact.signature import SIGNATURE, check_signature, sign
from dllmc.compiler import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.spec import ArtifactError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, spec = llada(torch.float32)
    model = LoadedModel(module, spec, None, "tiny", None, {})
    package = compile_model(model, engine_of=Engine, backend="eager").package
    return save_package(package, tmp_path_factory.mktemp("signature") / "tiny.dllm")


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "tiny.dllm")


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Files of a new private key and of its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_what_was_signed_is_loaded_with_the_key(artifact: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    assert sign(artifact, private) == artifact / SIGNATURE
    assert load_package(artifact, public_key=public).name == "tiny"
    assert Engine.load(artifact, public_key=public).generate([1], max_new_tokens=2)


def test_paths_may_be_relative(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(tmp_path, "mine")
    monkeypatch.chdir(tmp_path)
    sign(artifact.name, "mine.pem")
    assert load_package(artifact.name, public_key="mine.pub").name == "tiny"


def test_another_key_is_refused(artifact: Path, tmp_path: Path) -> None:
    sign(artifact, keys(tmp_path, "mine")[0])
    with pytest.raises(ArtifactError, match=r"is not what the holder of `.*other\.pub` signed"):
        load_package(artifact, public_key=keys(tmp_path, "other")[1])


def test_what_is_not_signed_is_refused_where_a_key_is_given(
    artifact: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="is not signed"):
        load_package(artifact, public_key=keys(tmp_path, "mine")[1])


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "stranger.txt"])
def test_what_was_changed_since_is_refused(artifact: Path, tmp_path: Path, name: str) -> None:
    private, public = keys(tmp_path, "mine")
    sign(artifact, private)
    file = artifact / name
    file.write_bytes(file.read_bytes() + b" " if file.exists() else b"new")
    with pytest.raises(ArtifactError, match="is not what the holder"):
        check_signature(artifact, public)


def test_a_signature_stays_with_a_packed_artifact(artifact: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    sign(artifact, private)
    folder = unpack(pack(artifact, tmp_path / "a.tar"), tmp_path / "b.dllm")
    check_signature(folder, public)


def test_a_signed_artifact_may_be_written_again(artifact: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    sign(artifact, private)
    save_package(load_package(artifact), artifact)
    with pytest.raises(ArtifactError, match="is not signed"):
        check_signature(artifact, public)


def test_keys_that_are_none_are_refused(artifact: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    (tmp_path / "text").write_text("no key")
    with pytest.raises(UsageError, match=r"there is no key `nowhere\.pem`"):
        sign(artifact, "nowhere.pem")
    with pytest.raises(UsageError, match=r"text` cannot sign"):
        sign(artifact, tmp_path / "text")
    sign(artifact, private)
    with pytest.raises(UsageError, match=r"text` is no public key"):
        check_signature(artifact, tmp_path / "text")
    with pytest.raises(UsageError, match="there is no key"):
        check_signature(artifact, public.with_name("nowhere.pub"))


def test_without_the_library_the_extra_is_named(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("model_signing"):
            raise ImportError("No module named 'model_signing'")
        return usual(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"dllmc\[signing\]"):
        sign(artifact, tmp_path / "key.pem")
