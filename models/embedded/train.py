"""Train the embedded model: `python -m dllmc.models.embedded.train`.

Masked-diffusion fine-tuning as in LLaDA (arXiv 2502.09992, section 2.3): a response token is
masked with probability t ~ U(0, 1], and the loss is the mean cross-entropy over masked tokens.
A batch is a function of the seed and the step, so a run that was stopped continues as if it
had not been.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from dllmc.models.embedded import CHECKPOINT
from dllmc.models.embedded import tokenizer as vocabulary
from dllmc.models.llada import ARCHITECTURES, LLaDA
from dllmc.tasks import _words as words
from dllmc.tasks import generator_tasks, split_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenizers import Tokenizer
    from torch import Tensor

    from dllmc.tasks import GeneratorTask

PROMPT_SLOTS, RESPONSE_SLOTS = 32, 32
# Share of each task in a batch: addition takes longest to learn (0.03 after 2,000 steps of a
# trial), copying the least. The order is part of the seed: another one draws other batches.
MIX = {
    "copy": 1.0,
    "reverse": 1.0,
    "sort": 1.5,
    "replace": 1.0,
    "shuffle": 1.0,
    "insert-random": 1.0,
    "replace-random": 1.0,
    "pick-template": 1.0,
    "words-to-sentence": 1.0,
    "addition": 2.0,
    "running-sum": 1.5,
    "written-addition": 1.5,
    "json-record": 1.0,
}

# Shares of the last steps, for what is not yet right at 0.95 after the first 8,000.
POLISH_MIX = dict.fromkeys(MIX, 0.5) | {
    "insert-random": 1.5,
    "replace-random": 2.0,
    "addition": 3.0,
    "written-addition": 3.0,
    "json-record": 3.0,
}


def configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` with LLaDA's own keys."""
    size = tokenizer.get_vocab_size()
    return {
        "architectures": list(ARCHITECTURES),
        "model_type": "llada",
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "d_model": 192,
        "n_heads": 6,
        "n_kv_heads": 6,
        "n_layers": 5,
        "mlp_hidden_size": 512,
        "max_sequence_length": PROMPT_SLOTS + RESPONSE_SLOTS,
        "vocab_size": size,
        "embedding_size": size,
        "weight_tying": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 10000.0,
        "mask_token_id": tokenizer.token_to_id(vocabulary.MASK),
        "eos_token_id": tokenizer.token_to_id(vocabulary.EOS),
        "pad_token_id": tokenizer.token_to_id(vocabulary.PAD),
        "prompt_slots": PROMPT_SLOTS,
    }


def training_tasks() -> list[GeneratorTask]:
    """The tasks of the mix, in its order."""
    known = {task.name: task for task in generator_tasks()}
    return [known[name] for name in MIX]


def build_tokenizer(tasks: Sequence[GeneratorTask]) -> Tokenizer:
    """The tokenizer that knows the first word of each task's prompts."""
    prefixes = {task.draw(random.Random(0)).prompt.split()[0]: None for task in tasks}
    return vocabulary.build(words.ALL, tuple(prefixes))


def canvases(
    tokenizer: Tokenizer,
    tasks: Sequence[GeneratorTask],
    count: int,
    seed: str,
    mix: Mapping[str, float] = MIX,
) -> Tensor:
    """`[count, slots]` int64 token ids of prompts and answers of the train split."""
    rng = random.Random(seed)
    weights = [mix[task.name] for task in tasks]
    texts: list[tuple[str, str]] = []
    while len(texts) < count:
        sample = rng.choices(tasks, weights)[0].draw(rng)
        if split_of(sample.prompt) == "train":
            texts.append((sample.prompt, f" {sample.reference}"))
    pad, eos = (tokenizer.token_to_id(t) for t in (vocabulary.PAD, vocabulary.EOS))
    rows = []
    for prompt, answer in texts:
        p, a = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
        if len(p) > PROMPT_SLOTS or len(a) >= RESPONSE_SLOTS:
            raise ValueError(f"{prompt!r} -> {answer!r} has {len(p)} and {len(a)} tokens")
        row = p + [pad] * (PROMPT_SLOTS - len(p)) + a + [eos] * (RESPONSE_SLOTS - len(a))
        rows.append(row)
    return torch.tensor(rows)


def loss_of(model: torch.nn.Module, tokens: Tensor, mask_id: int, rng: torch.Generator) -> Tensor:
    """Mean cross-entropy over the masked response tokens of `tokens`."""
    response = tokens[:, PROMPT_SLOTS:]
    ratio = 1.0 - torch.rand(len(tokens), 1, generator=rng)
    masked = torch.rand(response.shape, generator=rng) < ratio
    noised = torch.cat((tokens[:, :PROMPT_SLOTS], response.masked_fill(masked, mask_id)), dim=1)
    logits = model(noised.to(next(model.parameters()).device))[:, PROMPT_SLOTS:]
    return F.cross_entropy(logits[masked], response[masked].to(logits.device))


def rate(step: int, arguments: argparse.Namespace) -> float:
    """Warm-up, then cosine to a twentieth of the peak; the polish restarts at its own peak."""
    if step >= arguments.steps:
        progress = (step - arguments.steps) / max(1, arguments.polish)
        return _cosine(arguments.polish_rate, progress)
    if step < arguments.warmup:
        return float(arguments.rate * (step + 1) / arguments.warmup)
    progress = (step - arguments.warmup) / max(1, arguments.steps - arguments.warmup)
    return _cosine(arguments.rate, progress)


def _cosine(peak: float, progress: float) -> float:
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def write_checkpoint(folder: Path, model: LLaDA, tokenizer: Tokenizer) -> None:
    """Write the Hugging Face layout; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors.part", metadata={"format": "pt"})
    config = json.dumps(configuration(tokenizer), indent=2) + "\n"
    (folder / "config.json.part").write_text(config)
    tokenizer.save(str(folder / "tokenizer.json.part"))
    for part in folder.glob("*.part"):
        os.replace(part, part.with_suffix(""))


def train(arguments: argparse.Namespace) -> None:
    """Train as the command line says, from the saved state if there is one."""
    torch.manual_seed(arguments.seed)
    tasks = training_tasks()
    tokenizer = build_tokenizer(tasks)
    model, spec = LLaDA.from_config(configuration(tokenizer))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            depth = 2 * model.config.n_layers if "out.weight" in name else 1
            torch.nn.init.normal_(parameter, std=0.04 / math.sqrt(depth))
    model.to(arguments.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    start, state = 0, Path(arguments.state)
    if state.exists():
        saved = torch.load(state, map_location=arguments.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    if arguments.compile:
        model.compile()
    end = arguments.steps + arguments.polish
    bar = tqdm(range(start, end), initial=start, total=end)
    mean = 0.0
    for step in bar:
        mix = MIX if step < arguments.steps else POLISH_MIX
        tokens = canvases(tokenizer, tasks, arguments.batch, f"{arguments.seed}/{step}", mix)
        noise = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, arguments)
        loss = loss_of(model, tokens, spec.mask_id, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.item() if step == start else 0.98 * mean + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean:.3f}")
        if (step + 1) % arguments.save_every == 0 or step + 1 == end:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state.parent.mkdir(parents=True, exist_ok=True)
            torch.save({**saved, "step": step + 1}, state.with_suffix(".part"))
            os.replace(state.with_suffix(".part"), state)
            write_checkpoint(Path(arguments.output), model, tokenizer)


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those that the shipped model was trained with."""
    found = argparse.ArgumentParser(prog="python -m dllmc.models.embedded.train")
    found.add_argument("--steps", type=int, default=8000)
    found.add_argument("--batch", type=int, default=64)
    found.add_argument("--rate", type=float, default=1.5e-3)
    found.add_argument("--warmup", type=int, default=300)
    found.add_argument("--polish", type=int, default=1600, help="last steps, of POLISH_MIX")
    found.add_argument("--polish-rate", type=float, default=7e-4)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--save-every", type=int, default=100)
    found.add_argument("--compile", action="store_true", help="through Inductor")
    found.add_argument("--state", default="build/embedded-training.pt", help="to resume from")
    found.add_argument("--output", default=str(CHECKPOINT), help="checkpoint folder")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return found


if __name__ == "__main__":
    train(parser().parse_args())
