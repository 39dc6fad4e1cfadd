from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from dllmc.models import LoadedModel, load_model
from dllmc.models.embedded import CHECKPOINT, evaluate, train
from dllmc.models.embedded import tokenizer as vocabulary
from dllmc.models.llada import LLaDA
from dllmc.spec import CheckpointError
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dllmc.tasks import Sample

TOKENIZER = train.build_tokenizer(train.training_tasks())
IDS = TOKENIZER.get_vocab()
MASK, EOS, PAD = IDS[vocabulary.MASK], IDS[vocabulary.EOS], IDS[vocabulary.PAD]


class Oracle(nn.Module):
    """Knows the answer to every prompt; `certainty` `[64]` orders the positions."""

    def __init__(self, samples: list[Sample], certainty: Tensor | None = None) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], list[int]] = {}
        for sample in samples:
            prompt = TOKENIZER.encode(sample.prompt).ids
            answer = TOKENIZER.encode(f" {sample.reference}").ids
            row = [*prompt, *[PAD] * (32 - len(prompt)), *answer]
            self.known[tuple(row[:32])] = row + [EOS] * (64 - len(row))
        self.certainty = torch.full((64,), 20.0) if certainty is None else certainty
        self.calls: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls.append(tokens.clone())
        rows = torch.tensor([self.known[tuple(row[:32])] for row in tokens.tolist()])
        logits = nn.functional.one_hot(rows, TOKENIZER.get_vocab_size()).float()
        # The mask is the likeliest of all, and never an answer.
        return logits.mul(self.certainty[:, None]).index_fill(2, torch.tensor([MASK]), 30.0)


def model_of(module: nn.Module) -> LoadedModel:
    keys = train.configuration(TOKENIZER)
    with torch.device("meta"):
        _, spec = LLaDA.from_config(keys)
    return LoadedModel(module, spec, TOKENIZER, "oracle", None, keys)


def commits(calls: list[Tensor]) -> list[int]:
    """Positions in the order in which the first sequence's masks went away."""
    pairs = itertools.pairwise(calls)
    return [int((a[0] != b[0]).nonzero().item()) for a, b in pairs if len(a) == len(b)]


@pytest.mark.parametrize("name", ["copy", "shuffle", "json-record", "written-addition"])
def test_a_model_that_knows_the_answers_is_always_right(name: str) -> None:
    samples = get_task(name).samples("test", 100)
    batches: list[int] = []
    result = evaluate.evaluate(model_of(Oracle(samples)), get_task(name), samples, batches.append)
    assert result.exact == 1
    assert result.prompts == 100
    assert batches == [64, 36]


def test_a_model_that_answers_something_else_is_wrong() -> None:
    task = get_task("copy")
    samples = task.samples("test", 20)
    oracle = Oracle(samples)
    answers = list(oracle.known.values())
    shuffled = [a[:32] + b[32:] for a, b in zip(answers, answers[1:] + answers[:1], strict=True)]
    oracle.known = {tuple(row[:32]): row for row in shuffled}
    assert evaluate.evaluate(model_of(oracle), task, samples).exact < 0.1


def test_a_special_token_in_an_answer_makes_it_wrong() -> None:
    task = get_task("copy")
    samples = task.samples("test", 5)
    oracle = Oracle(samples)
    oracle.known = {k: [*row[:33], PAD, *row[33:63]] for k, row in oracle.known.items()}
    assert evaluate.evaluate(model_of(oracle), task, samples).exact == 0


def test_each_step_commits_one_token_and_ties_go_to_the_lowest_position() -> None:
    samples = get_task("copy").samples("test", 1)
    oracle = Oracle(samples)
    evaluate.answers(model_of(oracle), [samples[0].prompt])
    letters = len(str(samples[0].reference).split())
    assert len(oracle.calls) == letters + 1
    assert commits(oracle.calls) == list(range(32, 32 + letters))


def test_within_a_block_the_surest_goes_first_and_blocks_go_from_left_to_right() -> None:
    samples = get_task("copy").samples("test", 1)
    # So sure that a probability would round to one: only the tail mass tells them apart.
    oracle = Oracle(samples, torch.linspace(80, 100, 64))
    evaluate.decode(
        model_of(oracle), torch.tensor([list(prompt) for prompt in oracle.known]), block_length=4
    )
    assert commits(oracle.calls)[:7] == [35, 34, 33, 32, 39, 38, 37]


def test_a_sequence_that_ended_is_not_evaluated_again() -> None:
    samples = get_task("copy").samples("test", 10)
    oracle = Oracle(samples)
    evaluate.answers(model_of(oracle), [sample.prompt for sample in samples])
    lengths = [len(str(sample.reference).split()) + 1 for sample in samples]
    assert len(oracle.calls) == max(lengths)
    assert [len(call) for call in oracle.calls] == [
        sum(length > step for length in lengths) for step in range(max(lengths))
    ]


def test_a_model_without_tokenizer_or_slots_and_a_long_prompt_are_refused() -> None:
    with pytest.raises(CheckpointError, match="`random:llada-tiny` lacks a tokenizer"):
        evaluate.answers(load_model("random:llada-tiny"), ["copy: a"])
    with pytest.raises(CheckpointError, match="has 41 tokens, but `oracle` has 32 prompt slots"):
        evaluate.answers(model_of(Oracle([])), ["copy:" + " a" * 40])


def test_the_card_lists_every_task_and_the_command() -> None:
    results = [
        evaluate.Result(get_task("copy"), "exact", 200, 0.985),
        evaluate.Result(get_task("shuffle"), "valid-answer", 200, 0.5),
    ]
    card = evaluate.markdown(results, "python -m x --prompts 200")
    assert "`python -m x --prompts 200`" in card
    assert "| copy | independent | exact | 200 | 0.985 |" in card
    assert "| shuffle | dependent | valid-answer | 200 | 0.500 |" in card
    assert "1 of 2 tasks, of 1 kinds, reach 0.95." in card


def test_the_command_reports_a_missing_checkpoint_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--checkpoint", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_measures_every_task_and_writes_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "untrained"
    model, _ = LLaDA.from_config(train.configuration(TOKENIZER))
    train.write_checkpoint(folder, model, TOKENIZER)
    card = tmp_path / "card.md"
    arguments = ["--checkpoint", str(folder), "--prompts", "1", "--card", str(card)]
    assert evaluate.main(arguments) == 0
    assert "json-record" in capsys.readouterr().out
    assert card.read_text().count("| 1 | 0.000 |") == 13


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="the embedded model is not trained yet")
@pytest.mark.parametrize("name", ["copy", pytest.param("replace", marks=pytest.mark.slow)])
def test_the_shipped_model_answers_easy_prompts(name: str) -> None:
    task = get_task(name)
    samples = task.samples("test", 40)
    assert evaluate.evaluate(load_model("embedded"), task, samples).exact >= 0.85
