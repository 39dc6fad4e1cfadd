from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from graphs.toys import llada
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from dllmc.compiler import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.spec import PromptError

BEGIN, USER, ANSWER = 90, 91, 92
TEMPLATE = "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }}{% endfor %} answer"
LENGTH = {"max_new_tokens": 8, "config": {"schedule": {"kind": "blocks", "block_length": 8}}}


def make_tokenizer() -> Tokenizer:
    """Words, and one that it puts in front of every text by itself, as LLaDA's may."""
    words = {f"w{token}": token for token in range(90)}
    words |= {"begin": BEGIN, "user": USER, "answer": ANSWER}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["begin"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="begin $A", special_tokens=[("begin", BEGIN)]
    )
    return tokenizer


def make_engine(**changes: Any) -> Engine:
    module, spec = llada()
    model = LoadedModel(
        module, spec, make_tokenizer(), "tiny", None, {}, TEMPLATE, {"bos_token": "begin"}
    )
    model = dataclasses.replace(model, **changes)
    return Engine(compile_model(model, engine_of=Engine, backend="eager").package)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine()


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_special_tokens_of_the_template_are_not_added_again(engine: Engine) -> None:
    assert engine.encode("w5") == [BEGIN, 5]
    assert engine.encode_chat(said("w5 w6")) == [BEGIN, USER, 5, 6, ANSWER]


def test_a_conversation_decodes_as_its_tokens(engine: Engine) -> None:
    out = engine.chat(said("w5 w6"), **LENGTH)
    assert out.tokens == engine.generate([BEGIN, USER, 5, 6, ANSWER], **LENGTH).tokens
    assert out.text == engine.decode(out.tokens)


def test_several_conversations_give_several_answers(engine: Engine) -> None:
    together = engine.chat([said("w5"), said("w6 w7") + said("w8")], **LENGTH)
    ids = [[BEGIN, USER, 5, ANSWER], [BEGIN, USER, 6, 7, USER, 8, ANSWER]]
    assert together.tokens == engine.generate(ids, **LENGTH).tokens
    assert len(together.text or ()) == 2


@pytest.mark.parametrize("messages", ["hi", [], [{"content": "w5"}], ["hi"]], ids=str)
def test_what_is_no_conversation_is_refused(engine: Engine, messages: Any) -> None:
    with pytest.raises(PromptError, match="`messages`"):
        engine.chat(messages, **LENGTH)


def test_a_word_that_the_tokenizer_lacks_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptError, match=r"does not know .*'é'"):
        engine.chat(said("é"), **LENGTH)


def test_without_a_template_the_prompt_must_be_text() -> None:
    with pytest.raises(PromptError, match="model `tiny` has no chat template; give the prompt"):
        make_engine(chat_template=None).chat(said("w5"), **LENGTH)


def test_without_a_tokenizer_a_template_is_of_no_use() -> None:
    with pytest.raises(PromptError, match="model `tiny` has no tokenizer; give token ids"):
        make_engine(tokenizer=None).chat(said("w5"), **LENGTH)
