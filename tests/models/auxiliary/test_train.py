from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from dllmc.models import load_model
from dllmc.models.auxiliary import CHECKPOINT, train
from dllmc.models.embedded import tokenizer as vocabulary
from dllmc.models.embedded.train import canvases, training_tasks
from dllmc.models.qwen2 import Qwen2

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TOKENIZER = train.embedded_tokenizer()
TASKS = training_tasks()


def test_a_row_is_taught_the_next_token_of_the_response_and_nothing_else() -> None:
    tokens = canvases(TOKENIZER, TASKS, 16, "any")

    class Clairvoyant(torch.nn.Module):
        """Sure of the token that follows from row `first` on, of none before it."""

        def __init__(self, answer: Tensor, first: int) -> None:
            super().__init__()
            self.answer, self.first = answer.roll(-1, 1), first

        def forward(self, seen: Tensor) -> Tensor:
            known = torch.nn.functional.one_hot(self.answer, TOKENIZER.get_vocab_size())
            certain = torch.arange(seen.shape[1]) >= self.first
            return 50.0 * known * certain[:, None]

    assert train.loss_of(Clairvoyant(tokens, first=31), tokens) < 1e-6
    unsure = torch.tensor(float(TOKENIZER.get_vocab_size())).log() / 32
    torch.testing.assert_close(train.loss_of(Clairvoyant(tokens, first=32), tokens), unsure)
    assert train.loss_of(Clairvoyant(tokens.roll(1, 0), first=0), tokens) > 1


def test_what_is_added_to_the_residual_stream_starts_smaller() -> None:
    model, _ = Qwen2.from_config(train.configuration(TOKENIZER))
    train.initialise(model)
    weights = model.state_dict()
    assert weights["model.layers.3.mlp.up_proj.weight"].std() == pytest.approx(0.04, rel=0.05)
    assert weights["model.layers.3.mlp.down_proj.weight"].std() == pytest.approx(0.0141, rel=0.05)
    assert (weights["model.layers.3.self_attn.q_proj.bias"] == 0).all()
    assert (weights["model.norm.weight"] == 1).all()


def test_a_run_that_was_stopped_continues_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> dict[str, Tensor]:
        arguments = "--steps 4 --batch 4 --warmup 1 --save-every 2 --device cpu".split()
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
    assert load_model(tmp_path / "whole").spec.prompt_slots == 32


def test_the_shipped_checkpoint_is_what_the_script_writes() -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config == train.configuration(TOKENIZER)
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 4 * 2**20


def test_the_tokenizer_is_that_of_the_embedded_model() -> None:
    own, embedded = load_model("auxiliary"), load_model("embedded")
    assert own.tokenizer is not None
    assert embedded.tokenizer is not None
    assert own.tokenizer.get_vocab() == embedded.tokenizer.get_vocab()
    assert own.tokenizer.to_str() == embedded.tokenizer.to_str()
    assert own.spec.vocab_size == embedded.spec.vocab_size
    for role in ("mask_id", "eos_ids", "pad_id", "prompt_slots", "max_length"):
        assert getattr(own.spec, role) == getattr(embedded.spec, role)
    assert own.spec.mask_id == TOKENIZER.token_to_id(vocabulary.MASK)
