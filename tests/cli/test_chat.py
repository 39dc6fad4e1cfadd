"""`dllmc generate --chat`: a message through the model's own chat template."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The tiny model knows the words of the tasks alone.
TEMPLATE = (
    "{% for m in messages %}{{ 'sort: ' if m.role == 'system' else 'copy: ' }}{{ m.content }} "
    "{% endfor %}{% if add_generation_prompt %}d{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def artifact(chatty: Path) -> Path:
    import dllmc

    return dllmc.compile(chatty, backend="eager").save(chatty.with_name("tiny.dllm"))


def test_a_message_decodes_as_the_text_that_the_template_makes_of_it(
    dllmc: Callable, artifact: Path
) -> None:
    by_chat = dllmc("generate", artifact, "--chat", "a b", "--json").json
    assert by_chat == dllmc("generate", artifact, "copy: a b d", "--json").json
    told = dllmc("generate", artifact, "--chat", "a", "--system", "c", "--json").json
    assert told == dllmc("generate", artifact, "sort: c copy: a d", "--json").json


def test_each_message_is_a_conversation_of_its_own_after_the_prompts(
    dllmc: Callable, artifact: Path
) -> None:
    together = dllmc("generate", artifact, "b", "--chat", "a", "--chat", "c", "--json").json
    texts = ("b", "copy: a d", "copy: c d")
    assert together == [dllmc("generate", artifact, text, "--json").json for text in texts]


def test_the_artifact_its_model_and_the_reference_agree(
    dllmc: Callable, artifact: Path, chatty: Path
) -> None:
    arguments = ("--chat", "a b", "--json")
    found = dllmc("generate", artifact, *arguments).json
    assert dllmc("generate", chatty, *arguments).json == found
    assert dllmc("generate", chatty, *arguments, "--engine", "reference").json == found


def test_people_see_the_message_and_the_answer(dllmc: Callable, artifact: Path) -> None:
    ran = dllmc("generate", artifact, "--chat", "a b")
    assert ran.status == 0
    assert ran.out.split()[:3] == ["prompt", "a", "b"]


@pytest.mark.parametrize(
    ("template", "status", "message"),
    [
        (None, 2, "model `tiny` has no chat template; give the prompt as text"),
        ("{{ raise_exception('no users') }}", 2, "refuses these messages: no users; change"),
        ("{{ ''.__class__.__mro__ }}", 1, "access to attribute '__class__' of 'str' object"),
        ("{% for i in range(10**6) %}{% endfor %}", 1, "Range too big"),
        ("{% for m in messages %}", 1, "fails in line 1 (TemplateSyntaxError"),
    ],
    ids=["none", "refusing", "hostile", "endless", "damaged"],
)
def test_what_is_wrong_is_said_in_one_line(
    dllmc: Callable,
    checkpoint: Path,
    tmp_path: Path,
    template: str | None,
    status: int,
    message: str,
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(checkpoint, folder)
    if template is not None:
        declared = {"chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    # One of them by the runtime, for which the model is compiled first.
    engine = "runtime" if status == 2 and template else "reference"
    ran = dllmc("generate", folder, "--chat", "a", "--engine", engine)
    assert (ran.status, ran.out, ran.err.count("\n")) == (status, "", 1)
    assert message in ran.err


def test_system_without_chat_is_refused(dllmc: Callable, artifact: Path) -> None:
    ran = dllmc("generate", artifact, "a", "--system", "b")
    assert ran.status == 2
    assert ran.err == "error: `--system`='b' goes with --chat; give --chat TEXT, or leave it\n"
