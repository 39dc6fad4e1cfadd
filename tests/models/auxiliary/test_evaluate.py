from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from dllmc.models import LoadedModel, load_model
from dllmc.models.auxiliary import evaluate, train
from dllmc.models.embedded import tokenizer as vocabulary
from dllmc.models.qwen2 import Qwen2
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.tasks import Sample

TOKENIZER = train.embedded_tokenizer()
IDS = TOKENIZER.get_vocab()
MASK, EOS, PAD = IDS[vocabulary.MASK], IDS[vocabulary.EOS], IDS[vocabulary.PAD]


class Oracle(nn.Module):
    """Knows what follows every prefix of the right answers, and likes the mask even more."""

    def __init__(self, samples: list[Sample], gain: float = 20.0) -> None:
        super().__init__()
        self.gain = gain
        self.lengths: list[int] = []
        self.known: dict[tuple[int, ...], list[int]] = {}
        for sample in samples:
            prompt = TOKENIZER.encode(sample.prompt).ids
            answer = TOKENIZER.encode(f" {sample.reference}").ids
            row = [*prompt, *[PAD] * (32 - len(prompt)), *answer]
            self.known[tuple(row[:32])] = row + [EOS] * (65 - len(row))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        self.lengths.append(length)
        following = [self.known[tuple(row[:32])][1 : length + 1] for row in tokens.tolist()]
        known = nn.functional.one_hot(torch.tensor(following), TOKENIZER.get_vocab_size())
        return (self.gain * known).index_fill(2, torch.tensor([MASK]), self.gain + 1)


def model_of(module: nn.Module) -> LoadedModel:
    keys = train.configuration(TOKENIZER)
    with torch.device("meta"):
        _, spec = Qwen2.from_config(keys)
    return LoadedModel(module, spec, TOKENIZER, "oracle", None, keys)


@pytest.mark.parametrize("name", ["copy", "shuffle", "json-record", "written-addition"])
def test_a_model_that_knows_the_answers_is_always_right(name: str) -> None:
    samples = get_task(name).samples("test", 120)
    result = evaluate.evaluate(model_of(Oracle(samples)), get_task(name), samples)
    assert (result.prompts, result.exact) == (120, 1)


def test_a_model_that_answers_something_else_is_wrong() -> None:
    task = get_task("copy")
    samples = task.samples("test", 20)
    oracle = Oracle(samples)
    rows = list(oracle.known.values())
    others = [a[:32] + b[32:] for a, b in zip(rows, rows[1:] + rows[:1], strict=True)]
    oracle.known = {tuple(row[:32]): row for row in others}
    assert evaluate.evaluate(model_of(oracle), task, samples).exact < 0.1


def test_a_special_token_in_an_answer_makes_it_wrong() -> None:
    task = get_task("copy")
    samples = task.samples("test", 5)
    oracle = Oracle(samples)
    oracle.known = {k: [*row[:33], PAD, *row[33:64]] for k, row in oracle.known.items()}
    assert evaluate.evaluate(model_of(oracle), task, samples).exact == 0


def test_decoding_ends_when_every_sequence_has_its_eos() -> None:
    samples = get_task("copy").samples("test", 10)
    oracle = Oracle(samples)
    prompts = torch.tensor(list(oracle.known))
    responses = evaluate.decode(model_of(oracle), prompts)
    assert responses.tolist() == [row[32:64] for row in oracle.known.values()]
    longest = max(len(str(sample.reference).split()) for sample in samples)
    assert oracle.lengths == list(range(32, 33 + longest))


def test_likelihood_is_that_of_the_answer_with_its_eos() -> None:
    task = get_task("copy")
    samples = task.samples("test", 10)
    # The mask is e times as likely as the right token, and all others are nearly impossible.
    result = evaluate.evaluate(model_of(Oracle(samples, gain=60.0)), task, samples)
    assert result.likelihood == pytest.approx(-(1 + torch.tensor(1.0).exp()).log().item())


def test_the_command_measures_every_task_and_writes_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = Qwen2.from_config(train.configuration(TOKENIZER))
    train.write_checkpoint(tmp_path / "untrained", model, TOKENIZER)
    card = tmp_path / "card.md"
    arguments = ["--checkpoint", str(tmp_path / "untrained"), "--prompts", "1"]
    assert evaluate.main([*arguments, "--card", str(card)]) == 0
    assert card.read_text().count("| 1 | 0.000 | -") == 13
    assert "auxiliary.evaluate --prompts 1 --split test`" in card.read_text()
    assert card.read_text() in capsys.readouterr().out


def test_the_command_reports_a_missing_checkpoint_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--checkpoint", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_without_tokenizer_is_refused() -> None:
    task = get_task("copy")
    with pytest.raises(evaluate.CheckpointError, match="`random:dream-tiny` lacks a tokenizer"):
        evaluate.evaluate(load_model("random:dream-tiny"), task, task.samples("test", 1))
