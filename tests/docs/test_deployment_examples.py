"""The examples of deployment do what they say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import dllmc

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled = dllmc.compile("embedded", backend="eager")
    return compiled.save(tmp_path_factory.mktemp("deployment") / "model.dllm")


@pytest.fixture(scope="module")
def client(artifact: Path) -> TestClient:
    spec = importlib.util.spec_from_file_location("serve", EXAMPLES / "serve_fastapi.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["serve"] = module
    spec.loader.exec_module(module)
    return TestClient(module.create_app(str(artifact)))


def test_the_script_prints_an_answer_per_prompt(artifact: Path) -> None:
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "generate.py", artifact, "copy: a b", "copy: c"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stdout.splitlines()
    engine = dllmc.load(artifact)
    assert [line.partition("  (")[0] for line in lines] == [
        engine.generate(prompt).text for prompt in ("copy: a b", "copy: c")
    ]
    assert "SAFE" in lines[0]


def test_the_service_answers_as_the_engine_and_says_which_record_decided(
    client: TestClient, artifact: Path
) -> None:
    answered = client.post("/generate", json={"prompt": "copy: a b c", "task": "copy"})
    alone = dllmc.load(artifact).generate("copy: a b c", task="copy")
    assert answered.status_code == 200
    assert answered.json()["text"] == alone.text
    assert answered.json()["tokens"] == alone.tokens
    assert answered.headers["x-dllmc-match"] == alone.match
    assert answered.headers["x-dllmc-record"] == (alone.record or "none")


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "copy: a", "max_new_tokens": 4000}, "max_new_tokens"),
        ({"prompt": "copy: \u00e9"}, "does not know"),
        ({}, "prompt"),
    ],
)
def test_the_service_says_what_is_wrong_with_a_request(
    client: TestClient, request_: dict[str, Any], complaint: str
) -> None:
    answered = client.post("/generate", json=request_)
    assert answered.status_code == 422
    assert complaint in answered.text


def test_the_service_says_that_it_is_well(client: TestClient) -> None:
    assert client.get("/health").json() == {"model": "embedded", "execution": "eager"}


def test_what_the_container_copies_is_there() -> None:
    text = (EXAMPLES / "Containerfile").read_text()
    copied = re.findall(r"^COPY (\S+) ", text, re.MULTILINE)
    assert [name for name in copied if "$" not in name] == [".", "examples/serve_fastapi.py"]
    assert all((ROOT / name).exists() for name in copied if "$" not in name)
