"""Qwen2's published form: `vocab.json`, `merges.txt` and added tokens beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import pre_tokenizers

from dllmc.models._special_tokens import read_chat_template, read_special_tokens
from dllmc.models._tokenizer import read_tokenizer
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

# Single bytes in their printable form, then what the merges make of them.
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["h e", "l l", "ll o", "he llo", "Ġ hello", "1 2", "Ã ©", "' s", "Ċ Ċ"]
MERGED = ["he", "ll", "llo", "hello", "Ġhello", "12", "Ã©", "'s", "ĊĊ"]
VOCABULARY = {token: number for number, token in enumerate([*BYTES, *MERGED])}
END, MASK, THINK = (len(VOCABULARY) + 7 * n for n in (1, 2, 3))
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
CONFIG: dict[str, Any] = {
    "tokenizer_class": "Qwen2Tokenizer",
    "added_tokens_decoder": {
        str(END): {"content": "<|end|>", "special": True, **PLAIN},
        str(MASK): {"content": "<|mask|>", "special": True, **PLAIN, "lstrip": True},
        str(THINK): {"content": "<think>", "special": False, **PLAIN},
    },
    "eos_token": "<|end|>",
    "mask_token": {"content": "<|mask|>", **PLAIN},
    "pad_token": None,
}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")
    config = {k: v for k, v in (CONFIG | changes).items() if v is not ...}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def read(folder: Path) -> Tokenizer:
    tokenizer = read_tokenizer(folder, 1000)
    assert tokenizer is not None
    return tokenizer


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    found: list[str] = tokenizer.encode(text).tokens
    return found


def refused(folder: Path, vocab_size: int = 1000) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, vocab_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello hello", ["hello", "Ġhello"]),
        # Two spaces: the last goes with the word.
        ("  hello", ["Ġ", "Ġhello"]),
        # Digits stand alone, so the merge of two never happens.
        ("12", ["1", "2"]),
        ("he'S he's", ["he", "'", "S", "Ġ", "he", "'s"]),
        ("!\n\nhello", ["!", "ĊĊ", "hello"]),
        # The letter e with an accent of its own becomes one letter of two bytes.
        ("e\u0301", ["Ã©"]),
        ("", []),
    ],
)
def test_text_is_split_as_qwen2_splits_it(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert pieces(read(write(tmp_path)), text) == expected


def test_added_tokens_have_the_ids_and_flags_that_are_declared(tmp_path: Path) -> None:
    tokenizer = read(write(tmp_path))
    # Not the next free ids: there is a gap before each.
    assert tokenizer.encode("he<|end|><think>he").ids == [
        VOCABULARY["he"],
        END,
        THINK,
        VOCABULARY["he"],
    ]
    # `lstrip`: the space in front belongs to the token.
    assert tokenizer.encode("he <|mask|>").ids == [VOCABULARY["he"], MASK]
    ids = [END, THINK, VOCABULARY["Ġhello"]]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think> hello"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|end|><think> hello"


def test_every_text_comes_back(tmp_path: Path) -> None:
    tokenizer = read(write(tmp_path))
    for text in ("  tab\t and\r\n lines\n", "日本 🙂 é", "a\u2028b\x1cc", "<|en d|>"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_older_checkpoints_name_added_tokens_in_a_file_of_their_own(tmp_path: Path) -> None:
    folder = write(tmp_path, added_tokens_decoder=..., eos_token=...)
    (folder / "added_tokens.json").write_text(json.dumps({"<|end|>": END, "<x>": MASK}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    tokenizer = read(folder)
    assert tokenizer.encode("<|end|><x>").ids == [END, MASK]
    assert tokenizer.decode([END, MASK], skip_special_tokens=True) == "<x>"


def test_a_token_listed_as_special_is_special_whatever_its_flag(tmp_path: Path) -> None:
    folder = write(tmp_path, additional_special_tokens=["<think>"])
    assert read(folder).decode([THINK, VOCABULARY["he"]], skip_special_tokens=True) == "he"


def test_the_configuration_goes_before_the_older_map(tmp_path: Path) -> None:
    folder = write(tmp_path)
    older = {"eos_token": "<|old|>", "bos_token": {"content": "<|begin|>"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    assert read_special_tokens(folder) == {
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "mask_token": "<|mask|>",
    }


def test_a_whole_tokenizer_file_goes_before_the_parts(tmp_path: Path) -> None:
    folder = write(tmp_path)
    read(folder).save(str(folder / "tokenizer.json"))
    (folder / "merges.txt").write_text("")
    assert pieces(read(folder), "hello") == ["hello"]


def test_a_whole_tokenizer_file_gets_the_tokens_that_it_lacks(tmp_path: Path) -> None:
    folder = write(tmp_path, added_tokens_decoder={}, eos_token=..., mask_token=...)
    read(folder).save(str(folder / "tokenizer.json"))
    free = len(VOCABULARY)
    write(folder, added_tokens_decoder={str(free): {"content": "<new>", "special": True}})
    tokenizer = read(folder)
    assert tokenizer.encode("he<new>").ids == [VOCABULARY["he"], free]
    assert tokenizer.decode([free], skip_special_tokens=True) == ""
    write(folder, added_tokens_decoder={str(free + 1): {"content": "<new>"}})
    said = refused(folder)
    assert f"gives `<new>` the id {free}, but tokenizer_config.json says {free + 1}" in said


def test_a_folder_without_tokenizer_files_has_none(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path, 1000) is None


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer_is_refused_by_the_missing_name(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).unlink()
    assert f"lacks {name}" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "{", "is not JSON"),
        ("vocab.json", '{"a": "1"}', "gives token 'a' the id '1'"),
        ("vocab.json", '{"a": true}', "gives token 'a' the id True"),
        ("vocab.json", '{"a": 1, "b": 1}', "gives two tokens one id"),
        ("vocab.json", "{}", "merges.txt cannot be read"),
        ("merges.txt", "h e\nhello\n", "merges.txt line 2 is no merge of two tokens"),
        ("merges.txt", "h e l\n", "merges.txt line 1 is no merge"),
        ("tokenizer_config.json", "[]", "is not a JSON object"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"a": {"content": "x"}}}',
            "`added_tokens_decoder` is not a mapping of ids to tokens",
        ),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"1": {}}}',
            "`added_tokens_decoder` is not a mapping of ids to tokens",
        ),
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "GPT2Tokenizer"}',
            "`tokenizer_class`='GPT2Tokenizer' splits words in a way of its own",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (write(tmp_path) / name).write_text(text)
    assert message in refused(tmp_path)


def test_an_id_beyond_the_model_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert read_tokenizer(folder, THINK + 1) is not None
    said = refused(folder, THINK)
    assert f"has token id {THINK}, but the model's vocabulary ends at {THINK - 1}" in said


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (None, None),
        ("{{ x }}", "{{ x }}"),
        ([{"name": "only", "template": "{{ a }}"}], "{{ a }}"),
        (
            [{"name": "tools", "template": "{{ t }}"}, {"name": "default", "template": "{{ d }}"}],
            "{{ d }}",
        ),
    ],
)
def test_the_default_chat_template_is_read(
    tmp_path: Path, declared: Any, expected: str | None
) -> None:
    assert read_chat_template(write(tmp_path, chat_template=declared)) == expected


def test_a_template_file_goes_before_the_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path, chat_template="old")
    (folder / "chat_template.jinja").write_text("new")
    assert read_chat_template(folder) == "new"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([{"name": "a", "template": ""}, {"name": "b", "template": ""}], "holds `a`, `b`, of"),
        (["x"], "holds no named templates"),
        (7, "holds no named templates"),
    ],
)
def test_templates_without_a_default_are_refused(
    tmp_path: Path, declared: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_chat_template(write(tmp_path, chat_template=declared))
