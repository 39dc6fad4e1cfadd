from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from dllmc.models import load_model
from dllmc.models.embedded import CHECKPOINT, train
from dllmc.models.embedded import tokenizer as vocabulary
from dllmc.models.llada import LLaDA
from dllmc.tasks import GeneratorTask, split_of, task_names

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TASKS = train.training_tasks()
TOKENIZER = train.build_tokenizer(TASKS)
IDS = TOKENIZER.get_vocab()
MASK, EOS, PAD = IDS[vocabulary.MASK], IDS[vocabulary.EOS], IDS[vocabulary.PAD]
needs_checkpoint = pytest.mark.skipif(
    not CHECKPOINT.exists(), reason="the embedded model is not trained yet"
)


def test_the_mix_is_made_of_built_in_tasks_and_keeps_its_order() -> None:
    assert train.MIX.keys() <= set(task_names())
    assert [task.name for task in TASKS] == list(train.MIX)


def test_batches_are_those_that_the_model_was_trained_on() -> None:
    # Another draw, weight or order would train another model from the same seed.
    digests = {
        seed: hashlib.sha256(train.canvases(TOKENIZER, TASKS, 64, seed).numpy().tobytes())
        for seed in ("0/0", "0/7999")
    }
    assert {seed: digest.hexdigest()[:16] for seed, digest in digests.items()} == {
        "0/0": "68f70071db5ca24e",
        "0/7999": "a837e2fa9512aec1",
    }


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_tokenizer_spells_every_task_within_the_slots(task: GeneratorTask) -> None:
    for sample in task.samples("train", 200):
        for text, slots in (
            (sample.prompt, train.PROMPT_SLOTS),
            (f" {sample.reference}", train.RESPONSE_SLOTS - 1),
        ):
            encoding = TOKENIZER.encode(text)
            assert len(encoding.ids) <= slots
            assert vocabulary.UNKNOWN not in encoding.tokens
            assert TOKENIZER.decode(encoding.ids, skip_special_tokens=False) == text


def test_a_canvas_is_prompt_padding_answer_and_eos() -> None:
    canvas = train.canvases(TOKENIZER, TASKS[:1], 8, "any")
    assert canvas.shape == (8, 64)
    for row in canvas.tolist():
        prompt = TOKENIZER.decode(row[:32])
        length = len(prompt.split()) - 1
        assert split_of(prompt) == "train"
        assert row[1 + length : 32] == [PAD] * (31 - length)
        assert row[32 : 32 + length] == row[1 : 1 + length]
        assert row[32 + length :] == [EOS] * (32 - length)


def test_only_masked_response_tokens_count_and_only_they_are_hidden() -> None:
    tokens = train.canvases(TOKENIZER, TASKS, 16, "any")
    seen: list[Tensor] = []

    class Clairvoyant(torch.nn.Module):
        def __init__(self, answer: Tensor) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(50.0))
            self.answer = answer

        def forward(self, noised: Tensor) -> Tensor:
            seen.append(noised)
            size = TOKENIZER.get_vocab_size()
            return self.scale * torch.nn.functional.one_hot(self.answer, size).float()

    loss = train.loss_of(Clairvoyant(tokens), tokens, MASK, torch.Generator().manual_seed(0))
    assert loss < 1e-6
    (noised,) = seen
    assert torch.equal(noised[:, :32], tokens[:, :32])
    hidden = noised == MASK
    assert torch.equal(noised[~hidden], tokens[~hidden])
    assert 0.3 < hidden[:, 32:].float().mean() < 0.7
    wrong = train.loss_of(
        Clairvoyant(tokens.roll(1, 0)), tokens, MASK, torch.Generator().manual_seed(0)
    )
    assert wrong > 1


def test_the_rate_warms_up_and_decays() -> None:
    options = train.parser().parse_args(["--steps", "100", "--warmup", "10", "--rate", "1"])
    rates = [train.rate(step, options) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, abs=0.001)


def test_a_run_that_was_stopped_continues_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> dict[str, Tensor]:
        arguments = "--steps 2 --polish 2 --batch 4 --warmup 1 --save-every 2 --device cpu".split()
        paths = ["--state", str(tmp_path / f"{name}.pt"), "--output", str(tmp_path / name)]
        train.train(train.parser().parse_args(arguments + paths))
        return load_file(tmp_path / name / "model.safetensors")

    whole = run("whole")
    real = train.canvases

    def stopped(*arguments: object) -> Tensor:
        if "0/3" in arguments:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "canvases", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    monkeypatch.undo()
    continued = run("stopped")
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    loaded = load_model(tmp_path / "whole")
    assert loaded.spec.prompt_slots == 32
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.to_str() == TOKENIZER.to_str()


def test_the_model_is_small_enough_to_come_along() -> None:
    with torch.device("meta"):
        model, _ = LLaDA.from_config(train.configuration(TOKENIZER))
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000


@needs_checkpoint
def test_the_shipped_checkpoint_is_what_the_script_writes() -> None:
    model = load_model("embedded")
    assert json.loads((CHECKPOINT / "config.json").read_text()) == train.configuration(TOKENIZER)
    assert model.name == "embedded"
    assert model.tokenizer is not None
    assert model.tokenizer.to_str() == TOKENIZER.to_str()
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 16 * 2**20
