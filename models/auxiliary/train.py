"""Train the auxiliary model: `python -m dllmc.models.auxiliary.train`.

Next-token prediction on the canvases of the embedded model, with its tokenizer: a row predicts
the next position, and the loss is the mean cross-entropy over the response tokens, EOS included.
A batch is a function of the seed and the step, so a run that was stopped continues as if it had
not been.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tqdm import tqdm

from dllmc.models.auxiliary import CHECKPOINT
from dllmc.models.embedded import CHECKPOINT as EMBEDDED
from dllmc.models.embedded import tokenizer as vocabulary
from dllmc.models.embedded.train import (
    PROMPT_SLOTS,
    RESPONSE_SLOTS,
    canvases,
    rate,
    training_tasks,
)
from dllmc.models.qwen2 import ARCHITECTURES, Qwen2

if TYPE_CHECKING:
    from torch import Tensor


def configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` with Qwen2's own keys, and `prompt_slots`."""
    return {
        "architectures": list(ARCHITECTURES),
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": PROMPT_SLOTS + RESPONSE_SLOTS,
        "vocab_size": tokenizer.get_vocab_size(),
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "mask_token_id": tokenizer.token_to_id(vocabulary.MASK),
        "eos_token_id": tokenizer.token_to_id(vocabulary.EOS),
        "pad_token_id": tokenizer.token_to_id(vocabulary.PAD),
        "prompt_slots": PROMPT_SLOTS,
    }


def embedded_tokenizer() -> Tokenizer:
    """The tokenizer of the embedded model, so that both speak of the same tokens."""
    return Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))


def initialise(model: Qwen2) -> None:
    """Normal weights, smaller for what is added to the residual stream; no biases."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            added = name.endswith(("o_proj.weight", "down_proj.weight"))
            depth = 2 * model.config.num_hidden_layers if added else 1
            torch.nn.init.normal_(parameter, std=0.04 / math.sqrt(depth))


def loss_of(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the response tokens of `tokens`, each by the row before it."""
    response = tokens[:, PROMPT_SLOTS:]
    logits = model(tokens)[:, PROMPT_SLOTS - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), response.flatten())


def write_checkpoint(folder: Path, model: Qwen2, tokenizer: Tokenizer) -> None:
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
    tasks, tokenizer = training_tasks(), embedded_tokenizer()
    model, _ = Qwen2.from_config(configuration(tokenizer))
    initialise(model)
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
    bar = tqdm(range(start, arguments.steps), initial=start, total=arguments.steps)
    mean = 0.0
    for step in bar:
        tokens = canvases(tokenizer, tasks, arguments.batch, f"{arguments.seed}/{step}")
        for group in optimizer.param_groups:
            group["lr"] = rate(step, arguments)
        loss = loss_of(model, tokens.to(arguments.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.item() if step == start else 0.98 * mean + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean:.3f}")
        if (step + 1) % arguments.save_every == 0 or step + 1 == arguments.steps:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state.parent.mkdir(parents=True, exist_ok=True)
            torch.save({**saved, "step": step + 1}, state.with_suffix(".part"))
            os.replace(state.with_suffix(".part"), state)
            write_checkpoint(Path(arguments.output), model, tokenizer)


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those that the shipped model was trained with."""
    found = argparse.ArgumentParser(prog="python -m dllmc.models.auxiliary.train")
    found.add_argument("--steps", type=int, default=2400)
    found.add_argument("--batch", type=int, default=32)
    found.add_argument("--rate", type=float, default=3e-3)
    found.add_argument("--warmup", type=int, default=150)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--save-every", type=int, default=100)
    found.add_argument("--compile", action="store_true", help="through Inductor")
    found.add_argument("--state", default="build/auxiliary-training.pt", help="to resume from")
    found.add_argument("--output", default=str(CHECKPOINT), help="checkpoint folder")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return found


if __name__ == "__main__":
    train(parser().parse_args())
