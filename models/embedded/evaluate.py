"""Measure the embedded model: `python -m dllmc.models.embedded.evaluate`.

Decodes each task's prompts with one token per step, in blocks from left to right, without a
cache, until EOS, and prints the share of right answers.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dllmc.models.checkpoint import load_checkpoint
from dllmc.models.embedded import CHECKPOINT
from dllmc.spec import CheckpointError, DllmcError
from dllmc.tasks import SPLITS, generator_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dllmc.models._loaded import LoadedModel
    from dllmc.tasks import Sample, Split, Task

BATCH, BLOCK_LENGTH = 64, 8
# The embedded model's gate: so many right answers on six tasks of three kinds.
GATE = 0.95


@dataclass(frozen=True)
class Result:
    """The share of right answers to one task's prompts."""

    task: Task
    metric: str
    prompts: int
    exact: float


@torch.inference_mode()
def decode(model: LoadedModel, prompts: Tensor, block_length: int = BLOCK_LENGTH) -> Tensor:
    """Responses `[B, max_length - prompt_slots]` to `prompts` `[B, prompt_slots]`.

    Each step commits, in the first block that has masks, the row that is surest by tail mass.
    A sequence ends when an EOS has no mask before it; masks after it are left.
    """
    spec, slots = model.spec, prompts.shape[1]
    canvas = torch.full((len(prompts), spec.max_length), spec.mask_id)
    canvas[:, :slots] = prompts
    for start in range(slots, spec.max_length, block_length):
        block = slice(start, min(start + block_length, spec.max_length))
        for _ in range(block.stop - block.start):
            running = (~_ended(model, canvas[:, slots:])).nonzero()[:, 0]
            if not len(running):
                return canvas[:, slots:]
            logits = model.module(canvas[running])[:, block].double()
            tokens, tail = _surest(logits, spec.mask_id)
            # Ties go to the lowest position, as everywhere.
            place = tail.masked_fill(canvas[running, block] != spec.mask_id, torch.inf).argmin(1)
            canvas[running, start + place] = tokens[torch.arange(len(running)), place]
    return canvas[:, slots:]


def _surest(logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """The likeliest token that is no mask, and the mass of all others relative to it."""
    allowed = logits.clone()
    allowed[..., mask_id] = -torch.inf
    top, tokens = allowed.max(-1, keepdim=True)
    return tokens[..., 0], (logits - top).exp().scatter(-1, tokens, 0.0).sum(-1)


def _ended(model: LoadedModel, responses: Tensor) -> Tensor:
    eos = torch.isin(responses, torch.tensor(model.spec.eos_ids, dtype=torch.long))
    before_masks = (responses == model.spec.mask_id).cumsum(1) == 0
    return (eos & before_masks).any(1)


def answers(
    model: LoadedModel, prompts: Sequence[str], block_length: int = BLOCK_LENGTH
) -> list[str]:
    """What the model answers to `prompts`, without EOS and what follows it.

    Raises:
        CheckpointError: The model has no tokenizer or no prompt slots, or a prompt has too many
            tokens for them.
    """
    spec, tokenizer = model.spec, model.tokenizer
    if tokenizer is None or spec.prompt_slots is None or spec.pad_id is None:
        raise CheckpointError(
            f"`{model.name}` lacks a tokenizer or `prompt_slots` in config.json; "
            "choose a checkpoint that the training wrote"
        )
    canvas = torch.full((len(prompts), spec.prompt_slots), spec.pad_id)
    for row, encoding in enumerate(tokenizer.encode_batch(list(prompts))):
        if len(encoding.ids) > spec.prompt_slots:
            raise CheckpointError(
                f"prompt {prompts[row]!r} has {len(encoding.ids)} tokens, but `{model.name}` has "
                f"{spec.prompt_slots} prompt slots"
            )
        canvas[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
    found = []
    for tokens in decode(model, canvas, block_length).tolist():
        end = next((i for i, token in enumerate(tokens) if token in spec.eos_ids), len(tokens))
        # With the special tokens: one in the middle of an answer makes it wrong.
        found.append(tokenizer.decode(tokens[:end], skip_special_tokens=False))
    return found


def evaluate(
    model: LoadedModel,
    task: Task,
    samples: Sequence[Sample],
    advance: Callable[[int], object] = lambda _: None,
    block_length: int = BLOCK_LENGTH,
) -> Result:
    """Answer `samples` in batches and score them; `advance` is told of every batch's size."""
    right = 0
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        given = answers(model, [sample.prompt for sample in batch], block_length)
        right += sum(task.score(s, a) for s, a in zip(batch, given, strict=True))
        advance(len(batch))
    return Result(task, samples[0].metric, len(samples), right / len(samples))


def evaluate_all(
    model: LoadedModel, split: Split, count: int, block_length: int, console: Console
) -> list[Result]:
    """Evaluate every built-in task, with a progress bar."""
    work = [(task, task.samples(split, count)) for task in generator_tasks()]
    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        line = bar.add_task("", total=sum(len(samples) for _, samples in work))
        results = []
        for task, samples in work:
            bar.update(line, description=task.name)
            step = evaluate(model, task, samples, lambda n: bar.advance(line, n), block_length)
            results.append(step)
    return sorted(results, key=lambda result: (result.task.kind, -result.exact))


def summary(results: Sequence[Result]) -> str:
    """How the results stand against the gate."""
    passed = [result for result in results if result.exact >= GATE]
    kinds = len({result.task.kind for result in passed})
    return f"{len(passed)} of {len(results)} tasks, of {kinds} kinds, reach {GATE}"


def markdown(results: Sequence[Result], command: str) -> str:
    """The table of the model's card."""
    lines = [
        f"Measured with `{command}`: one token per step, blocks of tokens from left to right, no "
        "cache, EOS stop. `exact` is the share of right answers; where several are right, "
        "`judged by` says `valid-answer`.",
        "",
        "| task | kind | judged by | prompts | exact |",
        "|---|---|---|---:|---:|",
        *(
            f"| {r.task.name} | {r.task.kind} | {r.metric} | {r.prompts} | {r.exact:.3f} |"
            for r in results
        ),
        "",
        f"{summary(results)}.",
        "",
    ]
    return "\n".join(lines)


def table(results: Sequence[Result]) -> Table:
    found = Table("task", "kind", "judged by")
    found.add_column("prompts", justify="right")
    found.add_column("exact", justify="right")
    for r in results:
        style = "green" if r.exact >= GATE else None
        found.add_row(
            r.task.name, r.task.kind, r.metric, str(r.prompts), f"{r.exact:.3f}", style=style
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m dllmc.models.embedded.evaluate")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="DIR")
    parser.add_argument("--prompts", type=int, default=200, help="per task")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--block-length", type=int, default=BLOCK_LENGTH)
    parser.add_argument("--card", type=Path, metavar="FILE", help="write a Markdown table to FILE")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        model = load_checkpoint(options.checkpoint)
        results = evaluate_all(
            model, options.split, options.prompts, options.block_length, console
        )
    except DllmcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console.print(table(results))
    console.print(summary(results))
    if options.card:
        shown = ("prompts", "split", "block_length")
        flags = (f"--{name.replace('_', '-')} {getattr(options, name)}" for name in shown)
        options.card.write_text(markdown(results, f"{parser.prog} {' '.join(flags)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
