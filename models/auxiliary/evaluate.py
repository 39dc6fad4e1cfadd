"""Measure the auxiliary model: `python -m dllmc.models.auxiliary.evaluate`.

Decodes each task's prompts greedily, one token after the other, in plain torch and without a
cache, and asks how likely the reference answers are. Prints the table of the model's card.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dllmc.models.auxiliary import CHECKPOINT
from dllmc.models.checkpoint import load_checkpoint
from dllmc.spec import CheckpointError, DllmcError
from dllmc.tasks import SPLITS, generator_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer
    from torch import Tensor

    from dllmc.models._loaded import LoadedModel
    from dllmc.tasks import Sample, Split, Task

BATCH = 100


@dataclass(frozen=True)
class Result:
    """How the model does on one task.

    Attributes:
        exact: Share of right answers.
        likelihood: Mean natural logarithm of the probability of a reference's token, the EOS
            that ends it included.
    """

    task: Task
    metric: str
    prompts: int
    exact: float
    likelihood: float


@torch.inference_mode()
def decode(model: LoadedModel, prompts: Tensor) -> Tensor:
    """Greedy responses `[B, max_length - T]` to `prompts` `[B, T]`, EOS repeated at the end."""
    spec, canvas = model.spec, prompts
    eos = torch.tensor(spec.eos_ids)
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(spec.max_length - prompts.shape[1]):
        logits = model.module(canvas)[:, -1]
        logits[:, spec.mask_id] = -torch.inf
        tokens = torch.where(ended, eos[0], logits.argmax(-1))
        ended |= torch.isin(tokens, eos)
        canvas = torch.cat((canvas, tokens[:, None]), dim=1)
        if ended.all():
            break
    missing = spec.max_length - canvas.shape[1]
    filled = torch.nn.functional.pad(canvas, (0, missing), value=int(eos[0]))
    return filled[:, prompts.shape[1] :]


@torch.inference_mode()
def log_likelihoods(model: LoadedModel, canvas: Tensor) -> Tensor:
    """`[B, T - 1]`, the logarithm of each token's probability after those before it."""
    found: Tensor = model.module(canvas)[:, :-1].double().log_softmax(-1)
    return found.gather(2, canvas[:, 1:, None])[..., 0]


def evaluate(model: LoadedModel, task: Task, samples: Sequence[Sample]) -> Result:
    """Answer `samples` and score them, and weigh their references.

    Raises:
        CheckpointError: The model has no tokenizer, prompt slots or EOS.
    """
    tokenizer, spec = model.tokenizer, model.spec
    if tokenizer is None or spec.prompt_slots is None or not spec.eos_ids:
        raise CheckpointError(
            f"`{model.name}` lacks a tokenizer, or `prompt_slots` or `eos_token_id` in "
            "config.json; choose a checkpoint that the training wrote"
        )
    room, end = spec.max_length - spec.prompt_slots, spec.eos_ids[0]
    right, total, tokens = 0, 0.0, 0
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        ids = [tokenizer.encode(sample.prompt).ids for sample in batch]
        prompts = torch.tensor([spec.prepare_prompt(prompt, room) for prompt in ids])
        given = decode(model, prompts).tolist()
        right += sum(
            task.score(sample, _text(tokenizer, answer, end))
            for sample, answer in zip(batch, given, strict=True)
        )
        answers = [[*tokenizer.encode(f" {sample.reference}").ids, end] for sample in batch]
        filled = torch.tensor([answer + [end] * (room - len(answer)) for answer in answers])
        counted = torch.arange(room) < torch.tensor([[len(answer)] for answer in answers])
        each = log_likelihoods(model, torch.cat((prompts, filled), dim=1))[:, -room:]
        total += float(each[counted].sum())
        tokens += int(counted.sum())
    count = len(samples)
    return Result(task, samples[0].metric, count, right / count, total / tokens)


def _text(tokenizer: Tokenizer, answer: Sequence[int], end: int) -> str:
    """With the special tokens: one in the middle of an answer makes it wrong."""
    cut = list(answer).index(end) if end in answer else len(answer)
    return tokenizer.decode(answer[:cut], skip_special_tokens=False)


def evaluate_all(model: LoadedModel, split: Split, count: int) -> list[Result]:
    """Every built-in task, by kind and then from the best to the worst."""
    found = [evaluate(model, task, task.samples(split, count)) for task in generator_tasks()]
    return sorted(found, key=lambda result: (result.task.kind, -result.exact))


def markdown(results: Sequence[Result], command: str) -> str:
    """The table of the model's card."""
    lines = [
        f"Measured with `{command}`: greedy decoding from left to right, no cache, EOS stop. "
        "`exact` is the share of right answers; where several are right, `judged by` says "
        "`valid-answer`. `log-likelihood` is the mean natural logarithm of the probability of a "
        "token of the reference answer and of its EOS, after the tokens before it; where several "
        "answers are right, the reference is one of them, drawn at random.",
        "",
        "| task | kind | judged by | prompts | exact | log-likelihood |",
        "|---|---|---|---:|---:|---:|",
        *(
            f"| {r.task.name} | {r.task.kind} | {r.metric} | {r.prompts} | {r.exact:.3f} | "
            f"{r.likelihood:.3f} |"
            for r in results
        ),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m dllmc.models.auxiliary.evaluate")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="DIR")
    parser.add_argument("--prompts", type=int, default=200, help="per task")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the table to FILE too")
    options = parser.parse_args(arguments)
    try:
        results = evaluate_all(load_checkpoint(options.checkpoint), options.split, options.prompts)
    except DllmcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    card = markdown(results, f"{parser.prog} --prompts {options.prompts} --split {options.split}")
    print(card)
    if options.card:
        options.card.write_text(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
