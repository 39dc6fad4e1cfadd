from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dllmc.artifact import ChatTemplate, load_package, save_package
from dllmc.artifact.package import Package
from dllmc.spec import ArtifactError, CheckpointError, DenoiserSpec, PromptError

if TYPE_CHECKING:
    from pathlib import Path

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & 日本."},
    {"role": "user", "content": " hi "},
]
# As LLaDA and Qwen write theirs.
LLADA = (
    "{% for message in messages %}{% set content = '<|start|>' + message['role'] + '<|end|>\n\n'"
    " + message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
QWEN = """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined %}{% continue %}{% endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def render(text: str, messages: Any = TALK, **options: Any) -> str:
    return ChatTemplate(text, {"bos_token": "<s>"}).render(messages, **options)


def test_a_template_in_lladas_form() -> None:
    assert render(LLADA) == (
        "<s><|start|>system<|end|>\n\nBe <brief> & 日本.<|eot|>"
        "<|start|>user<|end|>\n\nhi<|eot|><|start|>assistant<|end|>\n\n"
    )


def test_a_template_in_qwens_form() -> None:
    assert render(QWEN, TALK[1:]) == (
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n hi <|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(QWEN, add_generation_prompt=False).endswith("user\n hi <|im_end|>\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Blocks leave neither their line end nor what stands before them.
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{{ messages[0] | tojson }}", '{"role": "system", "content": "Be <brief> & 日本."}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ messages | map(attribute='role') | join(', ') }}", "system, user"),
        ("{% for m in messages %}{{ loop.last }}{{ loop.length }} {% endfor %}", "False2 True2 "),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", "x"),
        (
            "{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}",
            "role=user;content= hi ;",
        ),
        (
            "{% set ns = namespace(n=1) %}{% for i in range(5) %}{% set ns.n = ns.n * 2 %}"
            "{% endfor %}{{ ns.n }}",
            "32",
        ),
        ("{{ 'a-b'.split('-')[-1] }}{{ 'aba'.replace('a', 'c') }}{{ '-' * 3 }}", "bcbc---"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}", "[1]"),
        ("{% set x %} in {% endset %}<{{ x | trim }}>", "<in>"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{{ strftime_now('%d') | length }}", "2"),
        ("{{ nothing is defined }}{{ tools is none }}", "FalseTrue"),
    ],
)
def test_templates_mean_what_they_mean_elsewhere(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    "messages",
    ["hi", {"role": "user", "content": "hi"}, [], ["hi"], [{"role": "user"}], [{"content": "a"}]],
    ids=str,
)
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(PromptError, match="`messages`"):
        render(LLADA, messages)


def test_messages_hold_plain_values_alone() -> None:
    with pytest.raises(PromptError, match="what is no text or number"):
        render(LLADA, [{"role": "user", "content": object()}])


def test_a_template_may_refuse_messages() -> None:
    text = "{% if messages[0].role == 'system' %}{{ raise_exception('no\nsystem') }}{% endif %}ok"
    with pytest.raises(PromptError, match="refuses these messages: no system; change them"):
        render(text)
    assert render(text, TALK[1:]) == "ok"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ raise_exception.__globals__['json'] }}", "access to attribute '__globals__'"),
        ("{{ cycler.__init__.__globals__ }}", "access to attribute '__init__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{% include 'chat.py' %}", "no loader"),
        ("{{ '{0.__class__}'.format(1) }}", "it uses `format`"),
        ("{{ '%99999999999d' % 1 }}", "it uses `%` on a text"),
        ("{{ 'a' | center(99999999999) }}", "No filter named 'center'"),
        ("{{ lipsum(99999) }}", "'lipsum' is undefined"),
        ("{% for", "fails in line 1"),
        ("\n{{ a b }}", "fails in line 2"),
        ("{{ bos_token + none }}", "TypeError"),
        ("{{ absent.role }}", "'absent' is undefined"),
    ],
)
def test_code_and_damage_are_refused(text: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        render(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


GROWING = "{% set ns = namespace(x='aa', y=['a']) %}{% for i in range(60) %}STEP{% endfor %}"


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**6) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in 'x' * 99999 %}{% for b in 'x' * 99999 %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "a" * 99 + "{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 'a' * 10**12 }}",
        "{{ 10**10**10 }}",
        "{{ ['a'] * 10**12 }}",
        "{{ 'a'.ljust(10**12) }}",
        "{{ ('a' * 99999).replace('a', 'a' * 99999) }}",
        "{{ ('a' * 99999) | replace('a', 'a' * 99999) }}",
        "{{ ('a' * 99999).join('a' * 99999) }}",
        "{{ ('a' * 99999) | join('a' * 99999) }}",
        "{{ range(9999) | list | map('string') | map('replace', '9', 'a' * 99999) | join }}",
        GROWING.replace("STEP", "{% set ns.x = ns.x ~ ns.x %}"),
        GROWING.replace("STEP", "{% set ns.x = ns.x + ns.x %}"),
        GROWING.replace("STEP", "{% set z %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = z %}"),
        GROWING.replace("STEP", "{% set ns.x = [ns.x, ns.x] | join %}"),
        GROWING.replace("STEP", "{% set ns.y = ns.y + ns.y %}"),
        GROWING.replace("STEP", "{% set ns.y = [ns.y, ns.y] %}") + "{{ ns.y }}",
        GROWING.replace("STEP", "{% set ns.y = (ns.y, ns.y) | list %}") + "{{ ns.y == ns.y }}",
        GROWING.replace("STEP", "{% set ns.y = dict(a=ns.y, b=ns.y) %}") + "{{ ns.y | tojson }}",
    ],
)
def test_every_rendering_ends(text: str) -> None:
    with pytest.raises(CheckpointError, match="the chat template fails"):
        render(text)


def test_a_long_conversation_is_within_the_budget() -> None:
    long = [{"role": "user", "content": "word " * 2000}] * 100
    assert len(render(QWEN, long)) > 1_000_000


def package() -> Package:
    import torch
    from torch.fx import Graph, GraphModule

    root = torch.nn.Module()
    root.register_buffer("weight", torch.ones(2))
    graph = Graph()
    graph.output((graph.get_attr("weight"),))
    spec = DenoiserSpec(mask_id=5, vocab_size=6, max_length=8)
    graphs = {"greedy": GraphModule(root, graph)}
    return Package("tiny", spec, "float32", "eager", graphs, "none")


def with_chat(path: Path, text: str = LLADA) -> Path:
    import dataclasses

    chat = ChatTemplate(text, {"bos_token": "<s>", "eos_token": "é"})
    return save_package(dataclasses.replace(package(), chat=chat), path)


@pytest.mark.parametrize("text", [LLADA, QWEN, "a\r\nb\rc\n", ""])
def test_an_artifact_keeps_the_template_to_the_letter(tmp_path: Path, text: str) -> None:
    chat = load_package(with_chat(tmp_path / "a.dllm", text)).chat
    assert chat == ChatTemplate(text, {"bos_token": "<s>", "eos_token": "é"})


def test_an_artifact_without_a_template_has_no_file_of_it(tmp_path: Path) -> None:
    folder = save_package(package(), tmp_path / "a.dllm")
    assert load_package(folder).chat is None
    assert not (folder / "chat_template.jinja").exists()


@pytest.mark.parametrize("name", ["chat_template.jinja", "special_tokens_map.json"])
def test_a_changed_template_is_found(tmp_path: Path, name: str) -> None:
    folder = with_chat(tmp_path / "a.dllm")
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match=f"{name}.*its hash differs"):
        load_package(folder)


def test_a_template_that_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    folder = save_package(package(), tmp_path / "a.dllm")
    (folder / "chat_template.jinja").write_text(LLADA)
    assert load_package(folder).chat is None
    assert "chat_template.jinja" not in json.loads((folder / "manifest.json").read_text())["files"]
