"""Tokenizers and chat templates against those of transformers, on drawn texts.

FOLDER holds a published tokenizer (`vocab.json`, `merges.txt`, `tokenizer_config.json` and, for
chats, a template); the environment is one with transformers:

    python benchmarks/parity/text.py FOLDER --texts 400 --chats 300

Compared are the ids of each text, the text of these ids with and without special tokens, the
vocabulary and the special tokens, with transformers' fast and slow class; and rendered chats.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import transformers

from dllmc.artifact import ChatTemplate
from dllmc.models._special_tokens import read_chat_template, read_special_tokens
from dllmc.models._tokenizer import read_tokenizer

# Letters of several scripts, marks that combine, emoji, spaces and line ends, control characters.
POOLS = (
    "abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " \t\n\r", ".,;:!?'\"-_()[]{}<>|/\\@#$%",
    "äöüßéèñçø", "日本語中文漢字かな한국어", "هذاעברית", "🙂🚀👩‍👩‍👧🇩🇪",
    "e\u0301a\u0308\u1100\u1161\u212b\ufb01", "\u00a0\u2003\u2028\x85\x1c\x00\ufeff",
)  # fmt: skip
WORDS = ("'s", "'LL", "don't", "  ", "   \n\n", " hello", "World", "x=1", "1234567", "\r\n")


def draw_text(rng: random.Random, added: list[str]) -> str:
    parts = []
    for _ in range(rng.randint(0, 12)):
        kind = rng.random()
        if kind < 0.12 and added:
            parts.append(rng.choice(added))
        elif kind < 0.25:
            parts.append(rng.choice(WORDS))
        elif kind < 0.32:
            parts.append(chr(rng.choice([rng.randint(32, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])))
        else:
            pool = rng.choice(POOLS)
            parts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 5))))
    return "".join(parts)


def compare_texts(folder: Path, kind: Any, count: int) -> None:
    ours, theirs = read_tokenizer(folder, 1 << 30), kind.from_pretrained(folder)
    assert ours is not None
    rng, encoded, decoded = random.Random(7), 0, 0
    for _ in range(count):
        text = draw_text(rng, sorted(theirs.get_added_vocab()))
        ids = theirs(text)["input_ids"]
        encoded += ours.encode(text).ids != ids
        for skip in (True, False):
            expected = theirs.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            decoded += ours.decode(ids, skip_special_tokens=skip) != expected
    special = {k: v for k, v in theirs.special_tokens_map.items() if isinstance(v, str)}
    print(
        f"{folder.name}, {kind.__name__}: {count} texts, {encoded} encoded otherwise, {decoded} "
        f"decoded otherwise; the vocabulary is "
        f"{'equal' if ours.get_vocab() == theirs.get_vocab() else 'NOT equal'}, special tokens "
        f"are {'equal' if read_special_tokens(folder) == special else 'NOT equal'}"
    )


def draw_chat(rng: random.Random) -> list[dict[str, Any]]:
    def words() -> str:
        return "".join(rng.choice("ab <>&'\"é日\n🙂") for _ in range(rng.randint(0, 12)))

    roles = ("system", "user", "assistant", "tool")
    chat: list[dict[str, Any]] = [
        {
            "role": rng.choice(roles),
            "content": rng.choice(["", f"<think>{words()}</think>"]) + words(),
        }
        for _ in range(rng.randint(1, 6))
    ]
    if rng.random() < 0.3:
        chat[-1]["tool_calls"] = [{"function": {"name": "f", "arguments": {"x": words()}}}]
    return chat


def compare_chats(folder: Path, kind: Any, count: int) -> None:
    text, special = read_chat_template(folder), read_special_tokens(folder)
    if text is None:
        print(f"{folder.name}: no chat template")
        return
    ours, theirs = ChatTemplate(text, special), kind.from_pretrained(folder)
    rng, differing = random.Random(3), 0
    for _ in range(count):
        chat, prompted = draw_chat(rng), rng.random() < 0.5
        expected = theirs.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=prompted, chat_template=text
        )
        differing += ours.render(chat, add_generation_prompt=prompted) != expected
    print(f"{folder.name}: {count} chats, {differing} rendered otherwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--chats", type=int, default=300)
    options = parser.parse_args()
    print(f"transformers {transformers.__version__}")
    for kind in (transformers.Qwen2TokenizerFast, transformers.Qwen2Tokenizer):
        compare_texts(options.folder, kind, options.texts)
    compare_chats(options.folder, transformers.Qwen2TokenizerFast, options.chats)


if __name__ == "__main__":
    main()
