"""Decodes of LLaDA by its own loop where the positions to commit are drawn at random.

    python benchmarks/parity/decode_llada_random.py CLONE tests/golden/llada_random.json

CLONE is one of ML-GSAI/LLaDA; its `generate.py` runs on our module. `torch.rand` returns the rows
of `golden.uniforms.draw_uniforms(uniform_seed, steps, canvas)` in turn, one for each evaluation.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any
from unittest.mock import patch

import decode_common as common
import decode_tiny as tiny
import torch
from golden.uniforms import draw_uniforms

SOURCE = {
    "repository": "ML-GSAI/LLaDA",
    "commit": "b7e6c3565f194352da44b38dd12b6970597309f3",
    "license": "MIT",
}


def plans() -> list[dict[str, Any]]:
    """Settings by the published names."""
    lengths = ((8, 32), (16, 48), (32, 32))
    found = [
        {
            "remasking": "random",
            "uniform_seed": 500 + number,
            "steps": gen // every,
            "block_length": block,
            "gen_length": gen,
        }
        for number, ((block, gen), every) in enumerate(itertools.product(lengths, (1, 2, 4)))
    ]
    uneven = {"remasking": "random", "block_length": 16, "gen_length": 32}
    return found * 4 + [{**uneven, "uniform_seed": 600 + k, "steps": 2 * k} for k in (3, 5, 6, 7)]


class Published(tiny.Plain):
    def __call__(self, tokens: torch.Tensor, attention_mask: None = None) -> Any:
        del attention_mask
        return super().__call__(tokens)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        likeliest = self.run(plan | {"remasking": "low_confidence"}, prompt)
        return self.compare(self.run(plan, prompt), likeliest)

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        from generate import generate

        given = {key: value for key, value in plan.items() if key != "uniform_seed"}
        length = len(prompt) + plan["gen_length"]
        rows = iter(draw_uniforms(plan["uniform_seed"], plan["steps"], length))

        def uniform(shape: tuple[int, int], device: torch.device) -> torch.Tensor:
            assert (shape, device) == ((1, length), self.device)
            return next(rows)[None].clone()

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            with patch.object(torch, "rand", uniform):
                return generate(self, tokens, mask_id=common.MASK, **given), plan["steps"]

        return self.counted(loop, prompt)


def main() -> None:
    clone, output = common.paths("llada")
    sys.path.insert(0, str(clone))
    models = [Published(number) for number in range(len(tiny.SHAPES))]
    settings = plans()
    common.record(output, SOURCE, [clone / "generate.py"], models, settings, tiny.LENGTHS)
    tiny.tell_changed(models, len(settings), "random positions")


if __name__ == "__main__":
    main()
