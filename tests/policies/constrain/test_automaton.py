from __future__ import annotations

import itertools
import json
import random
import re
from typing import TYPE_CHECKING

import pytest
import torch
from constrained.vocabularies import EOS, MASK, PAD, byte_level, decoded, of_pieces
from tokenizers import Tokenizer, decoders, models

from dllmc.models.embedded.tokenizer import build
from dllmc.policies.constrain._automaton import TokenAutomaton, check_length, token_automaton
from dllmc.policies.constrain._bytes import text_machine
from dllmc.policies.constrain._oracle import advance_oracle
from dllmc.policies.constrain._vocabulary import spelling
from dllmc.spec import ConfigError, DenoiserSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

PIECES = ("a", "b", "ab", " ", " a", "1", ".", "a ")
LETTERS = [
    "a|ab",
    "ab|a",
    "a*?",
    "(?:ab)*",
    "(?:a|b)*a",
    "a+ b",
    "[ab]* ?[ab]*",
    r"1(\.1)?",
    " ?a",
]
SENTENCES = [
    "grüße aus köln",
    "naïve café — ¥500",
    "日本語の文",
    "plain words are here",
    "😀 smile",
]


def accepts(automaton: TokenAutomaton, tokens: Iterable[int]) -> bool:
    end = advance_oracle(list(tokens), automaton.start, automaton)
    return bool(automaton.distance[end] == 0)


def written(automaton: TokenAutomaton, length: int) -> list[int]:
    """A response of `length` tokens, drawn among those allowed."""
    tokens: list[int] = []
    state = automaton.start
    for left in reversed(range(length)):
        near = automaton.distance[automaton.table[state]] <= left
        choices = near[automaton.classes].nonzero().flatten().tolist()
        tokens.append(random.choice(choices))
        state = int(automaton.table[state, automaton.classes[tokens[-1]]])
    return tokens


@pytest.mark.parametrize("pattern", LETTERS)
def test_what_it_accepts_is_what_python_matches(pattern: str) -> None:
    tokenizer, spec = of_pieces(*PIECES)
    automaton = token_automaton(pattern, tokenizer, spec)
    text_tokens = range(3, 3 + len(PIECES))
    for length in range(5):
        for tokens in itertools.product(text_tokens, repeat=length):
            text = tokenizer.decode(list(tokens))
            tidy = text in (text.strip(), f" {text.strip()}")
            expected = tidy and re.fullmatch(pattern, text.strip()) is not None
            assert accepts(automaton, tokens) == expected, text


@pytest.mark.parametrize("pattern", LETTERS)
def test_distance_is_the_fewest_tokens_to_a_match(pattern: str) -> None:
    automaton = token_automaton(pattern, *of_pieces(*PIECES))
    fewest = next(
        length
        for length in range(5)
        for tokens in itertools.product(range(3, 11), repeat=length)
        if accepts(automaton, tokens)
    )
    assert automaton.shortest == automaton.distance[automaton.start] == fewest
    steps = automaton.distance[automaton.table[:-1]].amin(dim=1) + 1
    away = automaton.distance[:-1]
    assert torch.equal(away[away > 0], steps[away > 0])
    assert away.isfinite().all()
    assert automaton.distance[automaton.dead].isinf()


def test_after_the_text_come_an_end_and_nothing_but_ends_and_padding() -> None:
    automaton = token_automaton("a", *of_pieces("a", "b"))
    for rest in ([], [EOS], [EOS, EOS], [EOS, PAD, EOS, PAD]):
        assert accepts(automaton, [3, *rest])
    for rest in ([PAD], [EOS, 3], [3], [MASK], [EOS, MASK]):
        assert not accepts(automaton, [3, *rest])
    for tokens in ([], [EOS], [PAD], [MASK], [4]):
        assert not accepts(automaton, tokens)


def test_padding_that_decoding_would_show_fills_nothing() -> None:
    tokenizer, spec = of_pieces("a", "b")
    automaton = token_automaton("a", tokenizer, spec.model_copy(update={"pad_id": 4}))
    assert accepts(automaton, [3, EOS])
    assert not accepts(automaton, [3, EOS, 4])


def test_rows_of_the_head_without_a_token_are_never_written() -> None:
    tokenizer, spec = of_pieces("a")
    automaton = token_automaton("(?s:.*)", tokenizer, spec)
    assert automaton.classes.tolist()[-3:] == [0, 0, 0]
    assert automaton.classes[MASK] == 0
    assert (automaton.table[:, 0] == automaton.dead).all()


def test_a_token_beyond_the_head_is_never_written() -> None:
    tokenizer, spec = of_pieces("a", "b", "c")
    automaton = token_automaton("a|c", tokenizer, spec.model_copy(update={"vocab_size": 5}))
    assert len(automaton.classes) == 5
    assert automaton.shortest == 1


def test_a_branch_that_the_vocabulary_cannot_write_is_left_out() -> None:
    tokenizer, spec = of_pieces("a", "b")
    automaton = token_automaton("aX|b|aaY", tokenizer, spec)
    assert accepts(automaton, [4])
    assert advance_oracle([3], automaton.start, automaton) == automaton.dead


def test_a_language_that_the_vocabulary_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="can write no text that matches 'aX'; allow other"):
        token_automaton("aX", *of_pieces("a", "b"))


def test_what_does_not_fit_the_response_is_refused() -> None:
    automaton = token_automaton("a{5}", *of_pieces("a", "b"))
    check_length(automaton, 5)
    with pytest.raises(
        ConfigError, match="has 5 tokens, and the response has 4; ask for at least"
    ):
        check_length(automaton, 4)


def test_a_model_without_an_end_is_refused() -> None:
    tokenizer, spec = of_pieces("a", "b")
    for ends in ((), (3,)):
        with pytest.raises(ConfigError, match=r"`eos_ids`=.* names no special token"):
            token_automaton("a", tokenizer, spec.model_copy(update={"eos_ids": ends}))


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece(), decoders.Metaspace()])
def test_a_decoder_that_looks_at_neighbours_is_refused(decoder: decoders.Decoder | None) -> None:
    tokenizer, spec = of_pieces("a")
    tokenizer = Tokenizer(models.BPE(vocab=tokenizer.get_vocab(), merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    with pytest.raises(ConfigError, match="needs a tokenizer whose decoder is ByteLevel or Fuse"):
        token_automaton("a", tokenizer, spec)


def test_white_space_is_what_strip_removes() -> None:
    table, accepting = (machine := text_machine("(?s:.*)")).table, machine.accepting
    for code in itertools.chain(range(1, 0x3100), (0xFEFF, 0x1F600)):
        state = 0
        for byte in f"x{chr(code)}".encode():
            state = int(table[state, byte])
        assert bool(accepting[state]) != chr(code).isspace(), hex(code)


def test_bytes_of_a_byte_level_vocabulary_are_those_it_decodes() -> None:
    tokenizer, _ = byte_level(SENTENCES, 400)
    tokenizer.add_tokens(["<think>", "ein Wort", "日"])
    spelled = spelling(tokenizer)
    assert sorted(spelled.silent) == [PAD, MASK, EOS]
    for token, text in spelled.written.items():
        assert tokenizer.decode([token]) == text.decode(errors="replace")
    assert {b"<think>", b"ein Wort", "日".encode()} <= {*spelled.written.values()}


@pytest.mark.parametrize(
    "pattern", ["[a-zà-ÿ]+( [一-鿋]+)*", "[^a-z]{3,8}", "(?s:.*)", "日|é|😀[ab]?"]
)
def test_byte_level_responses_decode_to_matches(pattern: str) -> None:
    tokenizer, spec = byte_level(SENTENCES, 400)
    automaton = token_automaton(pattern, tokenizer, spec)
    texts = {decoded(tokenizer, written(automaton, 12)) for _ in range(60)}
    assert len(texts) > 2
    assert any(not text.isascii() for text in texts)
    for text in texts:
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("text", SENTENCES)
def test_byte_level_texts_are_accepted_with_and_without_a_space_before(text: str) -> None:
    tokenizer, spec = byte_level(SENTENCES, 400)
    automaton = token_automaton(f"{re.escape(text)}|x", tokenizer, spec)
    for spaced in (text, f" {text}"):
        tokens = tokenizer.encode(spaced).ids
        assert accepts(automaton, [*tokens, EOS])
        assert not accepts(automaton, [*tokens[:-1], EOS])
    assert not accepts(automaton, tokenizer.encode(f"  {text}").ids)


def test_responses_of_the_embedded_vocabulary_decode_to_matches() -> None:
    tokenizer = build(("bob", "oslo", "name", "age"), ("json:",))
    spec = DenoiserSpec(
        mask_id=1, vocab_size=tokenizer.get_vocab_size(), max_length=64, eos_ids=(2,)
    )
    pattern = r'\{"name":"[a-z]+","age":[1-9][0-9]*(?:,"city": ?"(?:oslo|rome)")?\}'
    automaton = token_automaton(pattern, tokenizer, spec)
    found = [written(automaton, 24) for _ in range(100)]
    for tokens in found:
        assert re.fullmatch(pattern, decoded(tokenizer, tokens))
        assert json.loads(decoded(tokenizer, tokens))["age"] > 0
    assert {tokenizer.decode(tokens)[0] for tokens in found} == {" ", "{"}
    answer = tokenizer.encode('{"name":"bob","age":31,"city":"oslo"}').ids
    assert accepts(automaton, answer)


def test_what_was_built_is_kept_for_its_tokenizer() -> None:
    tokenizer, spec = of_pieces("a")
    automaton = token_automaton("a*", tokenizer, spec)
    assert token_automaton("a*", tokenizer, spec) is automaton
    assert token_automaton("a+", tokenizer, spec) is not automaton
    assert token_automaton("a*", of_pieces("a")[0], spec) is not automaton


def test_tokens_that_do_the_same_are_one_class() -> None:
    tokenizer, spec = of_pieces(*"abcdefgh")
    automaton = token_automaton("a[b-g]*", tokenizer, spec)
    classes = automaton.classes.tolist()[3:11]
    assert len(set(classes)) == 3
    assert len({*classes[1:7]}) == 1
    edges = set(zip(automaton.source.tolist(), automaton.label.tolist(), strict=True))
    assert len(edges) == len(automaton.source) == (automaton.table != automaton.dead).sum()
    assert torch.equal(automaton.table[automaton.source, automaton.label], automaton.target)


def test_building_takes_no_time_for_what_could_begin_anywhere() -> None:
    # Unanchored, this has 2**40 states.
    assert len(text_machine(r'"(?:[^"\\]|\\["]){0,40}"').table) < 1000
