"""The tokenizer of a checkpoint: `tokenizer.json`, or `vocab.json` with `merges.txt`.

The second is how Qwen2's tokenizer is published, and with it Dream, DiffuCoder and SDAR. Its added
tokens stand in `tokenizer_config.json` (`added_tokens_decoder`, with flags) or, in older
checkpoints, in `added_tokens.json` (names alone).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from dllmc.models._json import DAMAGED, read_json
from dllmc.models._special_tokens import all_special_tokens
from dllmc.spec import CheckpointError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_WHOLE, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_CONFIG, _ADDED = "tokenizer_config.json", "added_tokens.json"
_BYTE_LEVEL_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
# Of Qwen2: contractions, words with one leading sign, single digits, signs, line ends, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """The tokenizer of the checkpoint `folder`, or None where it has none.

    Args:
        folder: The checkpoint.
        vocab_size: Of the model: no token may have an id beyond it.

    Raises:
        CheckpointError: A file is damaged or missing, of a form that is not read, or does not
            belong to the weights.
    """
    if (folder / _WHOLE).exists():
        path, tokenizer = folder / _WHOLE, _from_file(folder)
    elif (folder / _VOCABULARY).exists() or (folder / _MERGES).exists():
        path, tokenizer = folder / _VOCABULARY, _from_vocabulary(folder)
    else:
        return None
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocab_size:
        raise CheckpointError(
            f"{path} has token id {largest}, but the model's vocabulary ends at "
            f"{vocab_size - 1}; use the tokenizer that belongs to the weights"
        )
    return tokenizer


def _from_file(folder: Path) -> Tokenizer:
    path = folder / _WHOLE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises no narrower class
        raise CheckpointError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    # A mask token that training added may stand in the configuration alone.
    for token, number in sorted(_declared(folder), key=lambda pair: pair[1]):
        if tokenizer.token_to_id(token.content) is None:
            tokenizer.add_tokens([token])
            _check_id(path, tokenizer, token.content, number)
    return tokenizer


def _check_id(path: Path, tokenizer: Tokenizer, token: str, number: int) -> None:
    found = tokenizer.token_to_id(token)
    if found != number:
        raise CheckpointError(
            f"{path} gives `{token}` the id {found}, but {_CONFIG} says {number}; {DAMAGED}"
        )


def _from_vocabulary(folder: Path) -> Tokenizer:
    for name in (_VOCABULARY, _MERGES):
        if not (folder / name).exists():
            raise CheckpointError(
                f"`{folder}` lacks {name}, without which its tokenizer cannot be read; download "
                f"it, or give {_WHOLE}"
            )
    _check_class(folder)
    added = _declared(folder)
    # In the vocabulary too, so that each has the id that the checkpoint says and not the next
    # free one.
    vocabulary = _vocabulary(folder) | {token.content: number for token, number in added}
    if len(set(vocabulary.values())) < len(vocabulary):
        raise CheckpointError(f"{folder / _VOCABULARY} gives two tokens one id; {DAMAGED}")
    tokenizer = _byte_level(folder, vocabulary)
    # Order matters where one token is the beginning of another.
    tokenizer.add_tokens([token for token, _ in sorted(added, key=lambda pair: pair[1])])
    # Those that are declared keep their flags.
    known = {token.content for token, _ in added}
    tokenizer.add_special_tokens(
        [
            AddedToken(text, normalized=False)
            for text in all_special_tokens(folder)
            if text not in known
        ]
    )
    return tokenizer


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / _CONFIG) if (folder / _CONFIG).exists() else {}


def _check_class(folder: Path) -> None:
    name = _config(folder).get("tokenizer_class", _BYTE_LEVEL_CLASSES[0])
    if name not in _BYTE_LEVEL_CLASSES:
        raise CheckpointError(
            f"{folder / _CONFIG}: `tokenizer_class`={name!r} splits words in a way of its own; "
            f"give {_WHOLE}, which says how ({nearest(str(name), _BYTE_LEVEL_CLASSES)})"
        )


def _byte_level(folder: Path, vocabulary: dict[str, int]) -> Tokenizer:
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, _merges(folder)))
    except Exception as error:  # `tokenizers` raises no narrower class
        raise CheckpointError(f"{folder / _MERGES} cannot be read ({error}); {DAMAGED}") from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _vocabulary(folder: Path) -> dict[str, int]:
    return _numbered(folder / _VOCABULARY, read_json(folder / _VOCABULARY))


def _numbered(path: Path, found: Mapping[str, Any]) -> dict[str, int]:
    for token, number in found.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise CheckpointError(f"{path} gives token {token!r} the id {number!r}; {DAMAGED}")
    return dict(found)


def _merges(folder: Path) -> list[tuple[str, str]]:
    path = folder / _MERGES
    try:
        # Only "\n" ends a line: others of Unicode's line ends are bytes of tokens.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split()
        if len(parts) != 2:
            raise CheckpointError(f"{path} line {number} is no merge of two tokens; {DAMAGED}")
        found.append((parts[0], parts[1]))
    return found


def _declared(folder: Path) -> list[tuple[AddedToken, int]]:
    """Added tokens and their ids, as the files beside the vocabulary say."""
    special, declared = all_special_tokens(folder), _config(folder).get("added_tokens_decoder")
    if declared is None:
        return _added_by_name(folder, special)
    try:
        return [(_added_token(entry, special), int(key)) for key, entry in declared.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / _CONFIG}: `added_tokens_decoder` is not a mapping of ids to tokens "
            f"({type(error).__name__}: {error}); {DAMAGED}"
        ) from error


def _added_token(entry: Mapping[str, Any], special: Collection[str]) -> AddedToken:
    flags = {name: entry[name] for name in _FLAGS if name in entry}
    # Some checkpoints forget the flag of a token that they list among the special ones.
    flags["special"] = bool(flags.get("special")) or entry["content"] in special
    return AddedToken(entry["content"], **flags)


def _added_by_name(folder: Path, special: Collection[str]) -> list[tuple[AddedToken, int]]:
    path = folder / _ADDED
    if not path.exists():
        return []
    return [
        (AddedToken(token, special=token in special, normalized=token not in special), number)
        for token, number in _numbered(path, read_json(path)).items()
    ]
