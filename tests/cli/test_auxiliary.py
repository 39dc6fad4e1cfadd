"""Decoding with a causal model beside the denoiser, from the command line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from golden.drawing import draw
from safetensors.torch import save_file

from dllmc.models.embedded import train
from dllmc.models.qwen2 import Qwen2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

PROMPTS = ("sort: d a c b", "copy: a b")
APD = json.dumps(
    {
        "schedule": {"kind": "lookahead", "length": 6},
        "commit": {"kind": "leftmost"},
        "cache": {"kind": "trailing", "length": 4},
        "verify": {"kind": "apd", "mixture": 0.6},
        "stop": {"kind": "length"},
    }
)
SPECDIFF = json.dumps(
    {
        "schedule": {"kind": "blocks", "block_length": 4},
        "verify": {"kind": "specdiff"},
        "stop": {"kind": "length"},
    }
)
BRIEF = ("--max-new-tokens", 10, "--json")


@pytest.fixture(scope="session")
def helper(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("helpers") / "helper"
    folder.mkdir()
    known = train.configuration(train.build_tokenizer(train.training_tasks()))
    keys = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": known["max_sequence_length"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": known["vocab_size"],
        "mask_token_id": known["mask_token_id"],
        "eos_token_id": known["eos_token_id"],
    }
    module, _ = Qwen2.from_config(keys)
    shapes = {name: list(weight.shape) for name, weight in module.state_dict().items()}
    scales = {"qk_scale": 2.0, "embedding_scale": 0.4, "head_scale": 4.0}
    weights = draw(shapes, known["mask_token_id"], seed=5, **scales)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(keys))
    shutil.copy(checkpoint / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize("config", [APD, SPECDIFF])
def test_runtime_and_reference_agree(
    dllmc: Callable, checkpoint: Path, helper: Path, config: str
) -> None:
    asked = ("generate", checkpoint, *PROMPTS, "--config", config, "--auxiliary", helper, *BRIEF)
    runtime = dllmc(*asked).json
    assert runtime == dllmc(*asked, "--engine", "reference").json
    assert list(runtime[0]) == ["tokens", "nfe", "auxiliary_nfe", "record", "match", "text"]
    assert all(answer["auxiliary_nfe"] >= 1 for answer in runtime)


def test_the_auxiliary_model_may_be_an_artifact(
    dllmc: Callable, artifact: Path, helper: Path, tmp_path: Path
) -> None:
    compiled = tmp_path / "helper.dllm"
    assert dllmc("compile", helper, "-o", compiled, "--backend", "eager").status == 0
    asked = ("generate", artifact, PROMPTS[0], "--config", SPECDIFF, *BRIEF, "--auxiliary")
    assert dllmc(*asked, compiled).json == dllmc(*asked, helper).json
    refused = dllmc(
        "generate", "embedded", PROMPTS[0], "--engine", "reference", *asked[3:], compiled
    )
    assert refused.status == 2
    assert "needs the plain model" in refused.err


def test_the_answer_says_how_often_it_was_asked(
    dllmc: Callable, artifact: Path, helper: Path
) -> None:
    asked = (PROMPTS[0], "--config", APD, "--max-new-tokens", 10, "--auxiliary", helper)
    assert "of the auxiliary model" in dllmc("generate", artifact, *asked).out


def test_a_trace_shows_what_was_accepted(dllmc: Callable, artifact: Path, helper: Path) -> None:
    asked = (artifact, PROMPTS[0], "--config", APD, "--auxiliary", helper, *BRIEF)
    trace, answer = dllmc("trace", *asked).json, dllmc("generate", *asked).json
    assert trace["tokens"] == answer["tokens"]
    assert len(trace["trace"]) == trace["nfe"] == answer["nfe"]


def test_without_one_the_option_is_named(dllmc: Callable, artifact: Path) -> None:
    refused = dllmc("generate", artifact, PROMPTS[0], "--config", APD, *BRIEF)
    assert refused.status == 2
    assert "`--auxiliary auxiliary`" in refused.err


def test_a_denoiser_is_refused(dllmc: Callable, artifact: Path) -> None:
    refused = dllmc("generate", artifact, PROMPTS[0], "--auxiliary", artifact, *BRIEF)
    assert refused.status == 2
    assert "an auxiliary model is causal" in refused.err


def test_a_saved_trace_takes_none(dllmc: Callable, tmp_path: Path) -> None:
    refused = dllmc("trace", tmp_path / "saved.jsonl", "--auxiliary", "auxiliary")
    assert refused.status == 2
    assert "`--auxiliary` is for a decode" in refused.err
