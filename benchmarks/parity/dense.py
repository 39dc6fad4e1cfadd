"""Logits of the dense models against published modelling code, and of merged LoRA against PEFT.

Each system takes the folder of its published code, of which this file holds none, and runs in
an environment that the code works in:

    python benchmarks/parity/dense.py dream FOLDER      configuration_dream.py, modeling_dream.py
    python benchmarks/parity/dense.py sdar FOLDER       configuration_sdar.py, modeling_sdar.py
    python benchmarks/parity/dense.py fast_dllm_v2 FOLDER     configuration.py, modeling.py
    python benchmarks/parity/dense.py dream_lora FOLDER as for dream; needs PEFT
    python benchmarks/parity/dense.py llada_lora FOLDER configuration_llada.py, modeling_llada.py

Transformers: 4.49 for Dream and LLaDA of Fast-dLLM, 4.57 for Dream of ZHZisZZ/dllm and for
Fast-dLLM v2, 4.52 for SDAR. The same drawn weights go into the published model and, through a
checkpoint folder, into ours; the inputs are random tokens, masks among them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import decode_common as common
import decode_sdar
import numpy as np
import torch
import transformers
from golden.drawing import draw
from safetensors.torch import save_file

from dllmc.models import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

VOCABULARY, MASK = common.VOCABULARY, common.MASK
# Lengths of an input, about the edges of blocks.
LENGTHS = (1, 7, 8, 31, 33, 96)
LORA = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1}


@dataclass(frozen=True)
class Shape:
    width: int
    heads: int
    kv_heads: int
    layers: int
    head_dim: int
    block: int
    theta: float
    tied: bool = False


SHAPES = (
    Shape(32, 4, 2, 2, 8, 4, 1e6),
    Shape(48, 6, 6, 3, 8, 8, 1e4),
    Shape(64, 4, 1, 2, 16, 16, 1e6, tied=True),
    Shape(64, 8, 2, 4, 8, 32, 5e5),
    Shape(96, 6, 3, 6, 16, 64, 1e6),
)


def qwen_keys(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width + 16,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "mask_token_id": MASK,
        "pad_token_id": common.PAD,
        "bos_token_id": common.EOS,
        "eos_token_id": common.EOS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": shape.theta,
        "rope_scaling": None,
        "use_sliding_window": False,
        "tie_word_embeddings": shape.tied,
    }


def imported(folder: Path, module: str, name: str) -> Any:
    common.package("published", folder)
    return getattr(importlib.import_module(f"published.{module}"), name)


def block_causal(length: int, block: int) -> Tensor:
    rows = np.arange(length) // block
    return torch.from_numpy(rows[:, None] >= rows[None, :])[None]


Built = tuple[dict[str, Any], "nn.Module", "Callable[[nn.Module, Tensor], Tensor]"]


def dream(folder: Path, shape: Shape) -> Built:
    keys = qwen_keys(shape) | {"hidden_size": shape.heads * shape.head_dim}
    keys |= {"architectures": ["DreamModel"], "model_type": "Dream"}
    config = imported(folder, "configuration_dream", "DreamConfig")(
        **keys, attn_implementation="sdpa"
    )
    model = imported(folder, "modeling_dream", "DreamModel")(config)
    return keys, model, lambda module, tokens: module(tokens).logits


def sdar(folder: Path, shape: Shape) -> Built:
    if "flash_attn" not in sys.modules:
        decode_sdar.stand_ins()
        loss = "published_sdar.fused_linear_diffusion_cross_entropy"
        sys.modules["published.fused_linear_diffusion_cross_entropy"] = sys.modules[loss]
    keys = qwen_keys(shape) | {"architectures": ["SDARForCausalLM"], "model_type": "sdar"}
    keys |= {"head_dim": shape.head_dim, "block_size": shape.block, "attention_bias": False}
    config = imported(folder, "configuration_sdar", "SDARConfig")(**keys, fuse_cross_entropy=False)
    model = imported(folder, "modeling_sdar", "SDARForCausalLM")(config)

    def logits(module: nn.Module, tokens: Tensor) -> Tensor:
        mask = block_causal(tokens.shape[1], shape.block)
        found: Tensor = module(tokens, attention_mask=mask).logits
        return found

    return keys, model, logits


def fast_dllm_v2(folder: Path, shape: Shape) -> Built:
    sys.path.insert(0, str(folder))
    keys = qwen_keys(shape) | {"architectures": ["Fast_dLLM_QwenForCausalLM"]}
    keys |= {"model_type": "Fast_dLLM_Qwen", "bd_size": shape.block, "head_dim": shape.head_dim}
    config = imported(folder, "configuration", "Fast_dLLM_QwenConfig")(**keys)
    model = imported(folder, "modeling", "Fast_dLLM_QwenForCausalLM")(config)
    return keys, model, lambda module, tokens: module(tokens, block_size=shape.block).logits


def llada(folder: Path, shape: Shape) -> Built:
    keys = {
        "architectures": ["LLaDAModelLM"],
        "d_model": shape.heads * shape.head_dim,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "n_layers": shape.layers,
        "mlp_hidden_size": 2 * shape.width,
        "vocab_size": VOCABULARY,
        "embedding_size": VOCABULARY,
        "max_sequence_length": 256,
        "mask_token_id": MASK,
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.theta,
        "weight_tying": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "rope": True,
        "alibi": False,
    }
    config = imported(folder, "configuration_llada", "LLaDAConfig")(
        **keys, init_device="cpu", flash_attention=False, attention_dropout=0.0,
        residual_dropout=0.0, embedding_dropout=0.0, bias_for_layer_norm=False,
    )  # fmt: skip
    model = imported(folder, "modeling_llada", "LLaDAModelLM")(config, init_params=True)
    return keys, model, lambda module, tokens: module(tokens).logits


SYSTEMS = {"dream": dream, "sdar": sdar, "fast_dllm_v2": fast_dllm_v2}
ADAPTED = {
    "dream_lora": (dream, ["q_proj", "v_proj", "k_proj", "o_proj"]),
    "llada_lora": (llada, ["q_proj", "v_proj", "k_proj", "attn_out"]),
}


def give_weights(model: nn.Module, number: int, *, tied: bool) -> dict[str, Tensor]:
    """Load drawn weights into the published model; what a checkpoint of it holds."""
    state = draw(common.stored(model), MASK, **common.scales(number))
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.eval()
    if tied:
        del state["lm_head.weight"]
    return state


def adapt(model: nn.Module, layers: list[str], base: Path, folder: Path, number: int) -> Any:
    """An adapter of the published model by PEFT, saved; both of its matrices are drawn."""
    import peft

    config = peft.LoraConfig(**LORA, target_modules=layers, use_rslora=number % 2 == 1)
    wrapped = peft.get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    torch.manual_seed(number)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def inputs(number: int) -> list[Tensor]:
    generator = np.random.default_rng(300 + number)
    found = []
    for length in LENGTHS:
        tokens = generator.integers(0, common.PAD, (int(generator.integers(1, 4)), length))
        masked = generator.random(tokens.shape) < generator.random()
        found.append(torch.from_numpy(np.where(masked, MASK, tokens)))
    return found


@torch.no_grad()
def compare(system: str, folder: Path) -> list[dict[str, Any]]:
    build, layers = ADAPTED[system] if system in ADAPTED else (SYSTEMS[system], None)
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    results: dict[torch.dtype, list[tuple[float, float]]] = {dtype: [] for dtype in dtypes}
    halves: list[tuple[float, float]] = []
    for number, shape in enumerate(SHAPES):
        keys, model, logits = build(folder, shape)
        tied = bool(keys.get("tie_word_embeddings"))
        with tempfile.TemporaryDirectory() as place:
            base = source = Path(place, "base")
            base.mkdir()
            (base / "config.json").write_text(json.dumps(keys))
            save_file(give_weights(model, number, tied=tied), base / "model.safetensors")
            if layers is not None:
                source = Path(place, "adapter")
                model = adapt(model, layers, base, source, number)
            # Half precision last: the published model cannot get back from it.
            for dtype in dtypes:
                ours = load_model(source, dtype=dtype).module
                exact = load_model(source, dtype=torch.float64).module
                model = model.to(dtype)
                for tokens in inputs(number):
                    theirs, mine = logits(model, tokens), ours(tokens)
                    assert theirs.shape == mine.shape
                    assert theirs.dtype == mine.dtype == dtype
                    difference = (theirs.double() - mine.double()).abs().max()
                    results[dtype].append((float(difference), float(theirs.abs().max())))
                    if dtype == torch.bfloat16:
                        truth = exact(tokens)
                        halves.append(
                            tuple(float((x - truth).abs().mean()) for x in (theirs, mine))
                        )
    rows = [summary(system, dtype, found) for dtype, found in results.items()]
    rows[-1]["mean_error_published"] = float(np.mean([theirs for theirs, _ in halves]))
    rows[-1]["mean_error_ours"] = float(np.mean([mine for _, mine in halves]))
    return rows


def summary(system: str, dtype: torch.dtype, found: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "system": system,
        "dtype": str(dtype).removeprefix("torch."),
        "models": len(SHAPES),
        "cases": len(found),
        "max_difference": max(difference for difference, _ in found),
        "relative": max(difference / largest for difference, largest in found),
        "largest_logit": max(largest for _, largest in found),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("system", choices=[*SYSTEMS, *ADAPTED])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    for row in compare(arguments.system, arguments.folder.resolve()):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
