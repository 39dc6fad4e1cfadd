"""Logits of the mixtures of experts against published modelling code.

Each system takes the folder of its published code, of which this file holds none:

    python benchmarks/parity/moe.py llada_moe FOLDER   {configuration,modeling}_lladamoe.py
    python benchmarks/parity/moe.py llada2 FOLDER      {configuration,modeling}_llada2_moe.py
    python benchmarks/parity/moe.py llada21 FOLDER     {configuration,modeling}_llada21_moe.py
    python benchmarks/parity/moe.py sdar_moe           Qwen3-MoE of transformers, with a block mask

Transformers 4.57. SDAR-MoE's own modelling code is published with its weights only; its body is
Qwen3-MoE. The same drawn weights go into the published model and, through a checkpoint folder
with a tensor per expert, into ours. Where experts are nearly as good as each other, rounding may
choose others: the median over a system's rows is given beside the largest difference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import decode_common as common
import decode_llada2
import decode_llada_moe
import dense
import numpy as np
import torch
import transformers
from golden.drawing import draw
from safetensors.torch import save_file

from dllmc.models import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    Logits = Callable[[nn.Module, Tensor], Tensor]
    Built = tuple[dict[str, Any], nn.Module, Logits]

BLOCKS = (8, 4, 32, 16, 32)
# Width, heads, key and value heads, layers, head width, experts, experts per token.
QWEN_BODIES = (
    (32, 4, 2, 2, 8, 8, 2),
    (48, 6, 6, 3, 8, 4, 1),
    (64, 4, 1, 2, 16, 16, 4),
    (32, 2, 2, 2, 16, 128, 8),
)
# As many experts, and groups of them, as the smaller published models have.
LARGE_LLADA_MOE = {"num_experts": 64, "num_experts_per_tok": 8}
LARGE_LLADA2 = {
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 2,
    "first_k_dense_replace": 0,
    "n_group": 8,
    "topk_group": 4,
}


def llada_moe(folder: Path) -> Iterator[Built]:
    config_type = dense.imported(folder, "configuration_lladamoe", "LLaDAMoEConfig")
    model_type = dense.imported(folder, "modeling_lladamoe", "LLaDAMoEModelLM")
    every = [decode_llada_moe.keys(number) for number in range(len(decode_llada_moe.SHAPES))]
    first_dense = [keys | {"moe_layer_freq": [0, *keys["moe_layer_freq"][1:]]} for keys in every]
    for keys in [*every, *first_dense, every[0] | LARGE_LLADA_MOE]:
        model = model_type(config_type(**keys, attn_implementation="sdpa"))
        yield keys, model, lambda module, tokens: module(tokens).logits


def llada2(folder: Path, suffix: str = "llada2_moe") -> Iterator[Built]:
    config_type = dense.imported(folder, f"configuration_{suffix}", "LLaDA2MoeConfig")
    model_type = dense.imported(folder, f"modeling_{suffix}", "LLaDA2MoeModelLM")
    every = [decode_llada2.keys(number) for number in range(len(decode_llada2.SHAPES))]
    for keys, block in zip([*every, every[0] | LARGE_LLADA2], BLOCKS, strict=True):
        model = model_type(config_type(**keys, attn_implementation="sdpa"))
        yield keys | {"block_size": block}, model, masked(block)


def llada21(folder: Path) -> Iterator[Built]:
    return llada2(folder, "llada21_moe")


def sdar_moe(folder: Path | None) -> Iterator[Built]:
    del folder
    for number, body in enumerate(QWEN_BODIES):
        width, heads, kv_heads, layers, head_dim, experts, chosen = body
        shape = dense.Shape(width, heads, kv_heads, layers, head_dim, BLOCKS[number], 1e6)
        keys = dense.qwen_keys(shape) | {
            "head_dim": head_dim,
            "num_experts": experts,
            "num_experts_per_tok": chosen,
            "moe_intermediate_size": width // 2,
            "norm_topk_prob": number != 1,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [1] if number == 1 else [],
        }
        config = transformers.Qwen3MoeConfig(**keys, attn_implementation="sdpa")
        model = transformers.Qwen3MoeForCausalLM(config)
        keys |= {"architectures": ["SDARMoeForCausalLM"], "block_size": shape.block}
        yield keys, model, masked(shape.block)


def masked(block: int) -> Logits:
    """Logits under a mask of 0 and the most negative number, which all of them take."""

    def logits(module: nn.Module, tokens: Tensor) -> Tensor:
        seen = dense.block_causal(tokens.shape[1], block)[None]
        dtype = next(module.parameters()).dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        found: Tensor = module(tokens, attention_mask=mask.expand(len(tokens), -1, -1, -1)).logits
        return found

    return logits


SYSTEMS = {"llada_moe": llada_moe, "llada2": llada2, "llada21": llada21, "sdar_moe": sdar_moe}


@torch.no_grad()
def compare(system: str, folder: Path | None) -> list[dict[str, Any]]:
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    results: dict[torch.dtype, list[Case]] = {dtype: [] for dtype in dtypes}
    models = 0
    for number, (keys, model, logits) in enumerate(SYSTEMS[system](folder)):
        models += 1
        state = draw(common.stored(model), common.MASK, **common.scales(number % 4))
        model.load_state_dict(state)
        model.eval()
        with tempfile.TemporaryDirectory() as place:
            Path(place, "config.json").write_text(json.dumps(keys))
            save_file(state, Path(place, "model.safetensors"))
            exact = load_model(place, dtype=torch.float64).module
            # Half precision last: the published model cannot get back from it.
            for dtype in dtypes:
                ours, model = load_model(place, dtype=dtype).module, model.to(dtype)
                for tokens in dense.inputs(number):
                    theirs, mine = logits(model, tokens), ours(tokens)
                    assert theirs.shape == mine.shape
                    assert mine.dtype == dtype
                    results[dtype].append(Case(theirs.double(), mine.double(), exact(tokens)))
    described = {"system": system, "models": models, "torch": torch.__version__}
    described["transformers"] = transformers.__version__
    return [described | summary(dtype, found) for dtype, found in results.items()]


class Case:
    def __init__(self, theirs: Tensor, mine: Tensor, exact: Tensor) -> None:
        rows = (theirs - mine).abs().amax(-1).flatten()
        self.rows, self.largest = rows.tolist(), float(theirs.abs().max())
        self.relative = float(rows.max()) / self.largest
        self.errors = [float((x - exact).abs().mean()) for x in (theirs, mine)]


def summary(dtype: torch.dtype, cases: list[Case]) -> dict[str, Any]:
    rows = np.array([difference for case in cases for difference in case.rows])
    theirs, mine = np.mean([case.errors for case in cases], axis=0)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "cases": len(cases),
        "rows": len(rows),
        "max_difference": float(rows.max()),
        "relative": max(case.relative for case in cases),
        "median_difference": float(np.median(rows)),
        "rows_over_1e-3": int((rows > 1e-3).sum()),
        "largest_logit": max(case.largest for case in cases),
        "mean_error_published": float(theirs),
        "mean_error_ours": float(mine),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve() if arguments.folder else None
    for row in compare(arguments.system, folder):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
