"""What the scripts `decode_*.py` share: they run published decode loops and record the results.

Each takes the path of a clone of the published code and holds none of it:

    python benchmarks/parity/decode_dream.py PATH tests/golden/dream.json

Weights follow from a seed (`tests/golden/drawing.py`), so a file holds only prompts, settings and
what the published loop returned, in float32 on a CPU at temperature 0.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from golden.drawing import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import nn

VOCABULARY, MASK, EOS, PAD = 96, 95, 94, 93
# LLaDA's embedding and head, for `draw`, and its longest sequence.
LLADA = {"embedding": "model.transformer.wte.weight", "head": "model.transformer.ff_out.weight"}
LONGEST = 128


class Published(Protocol):
    """A published model with its loops; `names` may tell `draw` its embedding and head.

    Attributes:
        keys: Of its `config.json`.
        model: The module.
        probe: What `probe` returned for it.
    """

    keys: dict[str, Any]
    model: nn.Module
    probe: dict[str, Any]

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any] | None:
        """Tokens and evaluations, or None where the case is of no use."""
        ...


@dataclass
class Calls:
    """Counts a model's evaluations, and says which were given tokens that later changed."""

    kind: Callable[[dict[str, Any]], str] = lambda _: "denoise"
    counts: dict[str, int] = field(default_factory=dict)
    inputs: list[list[int]] = field(default_factory=list)

    def watch(self, model: nn.Module) -> nn.Module:
        forward = model.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            kind = self.kind(kwargs)
            self.counts[kind] = self.counts.get(kind, 0) + 1
            tokens = args[0] if args else kwargs["input_ids"]
            self.inputs.append(tokens[0].tolist())
            return forward(*args, **kwargs)

        model.forward = counted
        return model

    def clear(self) -> None:
        self.counts.clear()
        self.inputs.clear()

    def rows(self) -> list[int]:
        """How many positions each evaluation was given."""
        return [len(tokens) for tokens in self.inputs]

    def taken(self) -> dict[str, Any]:
        return {"nfe": sum(self.counts.values())} | (
            {"calls": dict(sorted(self.counts.items()))} if len(self.counts) > 1 else {}
        )


def paths(*folders: str, output: bool = True) -> tuple[Path, ...]:
    """Folders of the published code, each with a name for `--help`, and the file to write."""
    parser = argparse.ArgumentParser()
    for name in (*folders, "output") if output else folders:
        parser.add_argument(name, type=Path)
    return tuple(path.resolve() for path in vars(parser.parse_args()).values())


def scales(number: int) -> dict[str, Any]:
    """Seed and scales of a system's model `number`: each has confidences of its own."""
    return {
        "seed": 200 + number,
        "qk_scale": (2.0, 1.0, 3.0, 2.0)[number % 4],
        "embedding_scale": (0.4, 0.2, 0.3, 0.5)[number % 4],
        "head_scale": (4.0, 3.0, 5.0, 7.0)[number % 4],
    }


def qwen_keys(
    architecture: str, model_type: str, number: int, shape: tuple[int, int, int, int]
) -> dict[str, Any]:
    """`config.json` of a tiny Qwen2.5 body.

    Args:
        architecture: Of the published class.
        model_type: Of the same.
        number: Of the model.
        shape: Width, heads, heads of keys and values, layers.
    """
    width, heads, kv_heads, layers = shape
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": (1e6, 1e4)[number % 2],
        "rope_scaling": None,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "mask_token_id": MASK,
        "pad_token_id": PAD,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
    }


def llada_keys(number: int, shape: tuple[int, int, int | None, int]) -> dict[str, Any]:
    """`config.json` of a tiny LLaDA.

    Args:
        number: Of the model.
        shape: Width, heads, heads of keys and values or None for as many, layers.
    """
    width, heads, kv_heads, layers = shape
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "n_layers": layers,
        "mlp_hidden_size": 2 * width,
        "vocab_size": VOCABULARY,
        "embedding_size": VOCABULARY,
        "max_sequence_length": LONGEST,
        "rope": True,
        "rope_theta": (500000.0, 10000.0)[number % 2],
        "rms_norm_eps": 1e-5,
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "attention_layer_norm": False,
        "alibi": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "weight_tying": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }


def stored(model: nn.Module) -> dict[str, list[int]]:
    """Shapes of the tensors that a checkpoint of `model` holds, by name."""
    return {name: list(tensor.shape) for name, tensor in sorted(model.state_dict().items())}


def give_weights(model: nn.Module, drawn: dict[str, Any]) -> nn.Module:
    """Replaces what the constructor drew; a tensor that is not stored keeps its value."""
    model.load_state_dict(draw(stored(model), MASK, **drawn))
    return model.float().eval()


def pick(number: int, models: int, lengths: tuple[int, ...]) -> tuple[int, list[int]]:
    """A model and a prompt, the same for two cases in turn, to compare their settings."""
    generator = np.random.default_rng(1000 + number // 2)
    model, length = generator.integers(models), generator.choice(lengths)
    return int(model), prompt(2000 + number // 2, int(length))


def prompt(seed: int, length: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(0, PAD, length).tolist()
    return tokens


@torch.no_grad()
def probe(logits_of: Callable[[torch.Tensor], torch.Tensor], length: int) -> dict[str, Any]:
    """Logits of one short input: they tell a difference of models from one of loops."""
    tokens = prompt(7, length)
    (logits,) = logits_of(torch.tensor([tokens]))
    return {"tokens": tokens, "logits": [round(value, 5) for value in logits[-1, :6].tolist()]}


def package(name: str, folder: Path) -> None:
    """Makes `folder` importable as package `name` without running its `__init__`."""
    parent = name.rpartition(".")[0]
    if parent:
        package(parent, folder.parent)
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules.setdefault(name, module)


def stand_in(name: str, **attributes: Any) -> None:
    """Makes `name` importable with these attributes in place of a package that is not needed."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    vars(module).update(attributes)
    sys.modules[name] = module


def record(
    output: Path,
    source: dict[str, Any],
    files: Iterable[Path],
    published: Sequence[Published],
    plans: Sequence[dict[str, Any]],
    lengths: tuple[int, ...],
    auxiliary: Sequence[Published] = (),
) -> None:
    """Decodes every plan with a drawn model and prompt, and writes what came back.

    The models called `auxiliary` are written behind those that decode.
    """
    import transformers

    cases = []
    for number, plan in enumerate(plans):
        model, tokens = pick(number, len(published), lengths)
        if (decoded := published[model].decode(plan, tokens)) is not None:
            cases.append({"model": model, **plan, "prompt": tokens, **decoded})
    source = source | {
        "left_out": len(plans) - len(cases),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "dtype": "float32",
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
    }
    models = [
        {
            "keys": model.keys,
            **scales(number),
            **getattr(model, "names", {}),
            "probe": model.probe,
            "tensors": stored(model.model),
        }
        for number, model in enumerate([*published, *auxiliary])
    ]
    lines = [f'{{"source": {json.dumps(source, indent=1)},', '"models": [']
    lines += [",\n".join(json.dumps(model, separators=(",", ":")) for model in models), "],"]
    lines += ['"cases": [', ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)]
    output.write_text("\n".join([*lines, "]}"]) + "\n")
    print(
        f"{output.name}: {len(models)} models, {len(cases)} cases, {output.stat().st_size} bytes"
    )
