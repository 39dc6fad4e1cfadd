"""Who made an artifact: a signature over all of its files, by OpenSSF Model Signing.

The hashes of a manifest show that an artifact is whole. Only a signature shows that it is the one
that the holder of a key has made; machine code of strangers should not be loaded without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dllmc.artifact._manifest import check_file, read_manifest
from dllmc.spec import ArtifactError, UsageError

SIGNATURE: Final = "model.sig"


def sign(artifact: str | Path, private_key: str | Path) -> Path:
    """Write the signature of an artifact into its folder.

    Whatever changes the artifact afterwards, tuning records put into it included, makes the
    signature void.

    Args:
        artifact: Folder, of which every file is checked first.
        private_key: File with an elliptic-curve key in PEM, without a password.

    Raises:
        ArtifactError: The artifact is damaged or none.
        UsageError: The key cannot be read, or the `signing` extra is not installed.
    """
    folder = Path(artifact)
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        check_file(folder, name, expected)
    signing, hashing = _library()
    where = folder / SIGNATURE
    # The library compares paths, and makes those of files absolute.
    absolute = folder.resolve()
    _check_key(private_key)
    try:
        config = signing.signing.Config().use_elliptic_key_signer(private_key=Path(private_key))
        config.set_hashing_config(hashing([absolute / SIGNATURE])).sign(absolute, where)
    except Exception as error:  # of several libraries
        raise UsageError(
            f"`{private_key}` cannot sign ({_line(error)}); give an elliptic-curve private key in "
            "PEM, as `openssl ecparam -name prime256v1 -genkey -noout` writes"
        ) from error
    return where


def check_signature(artifact: str | Path, public_key: str | Path) -> None:
    """See that the holder of a key has signed the artifact as it stands.

    Args:
        artifact: Folder.
        public_key: File with the key in PEM.

    Raises:
        ArtifactError: It is not signed, or not by this key, or was changed since.
        UsageError: The key cannot be read, or the `signing` extra is not installed.
    """
    folder = Path(artifact)
    where = folder / SIGNATURE
    signing, hashing = _library()
    _check_key(public_key)
    if where.is_symlink() or not where.is_file():
        raise ArtifactError(
            f"`{folder}` is not signed (it has no {SIGNATURE}); `dllmc sign` does it, or load it "
            "without a key"
        )
    try:
        config = signing.verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key))
    except Exception as error:  # of several libraries
        raise UsageError(
            f"`{public_key}` is no public key ({_line(error)}); give one in PEM"
        ) from error
    try:
        absolute = folder.resolve()
        config.set_hashing_config(hashing([absolute / SIGNATURE])).verify(absolute, where)
    except Exception as error:  # of several libraries
        raise ArtifactError(
            f"`{folder}` is not what the holder of `{public_key}` signed ({_line(error)}); do not "
            "use it"
        ) from error


def _library() -> tuple[Any, Any]:
    """The library, and what makes its way of hashing."""
    try:
        import model_signing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise UsageError(
            f"signatures need a library that is not installed ({error}); "
            '`pip install "dllmc[signing]"`'
        ) from error

    library: Any = model_signing

    def hashing(ignored: list[Path]) -> Any:
        return library.hashing.Config().set_ignored_paths(paths=ignored)

    return library, hashing


def _check_key(path: str | Path) -> None:
    if not Path(path).is_file():
        raise UsageError(f"there is no key `{path}`; give the path of a PEM file")


def _line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]
