"""Decodes of LLaDA by AdaBlock-dLLM, whose blocks end at confident delimiters.

    python benchmarks/parity/decode_adablock.py CLONE/llada tests/golden/adablock.json

CLONE is one of lgxi24/AdaBlock-dLLM. Needs transformers 4.49. Delimiters are the two tokens that
are most frequent where blocks have their default length; `block_history` holds the lengths.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import decode_common as common
import decode_tiny as tiny

if TYPE_CHECKING:
    import torch

SOURCE = {
    "repository": "lgxi24/AdaBlock-dLLM",
    "commit": "491b20580ad90f6019f29e045f484b538581101a",
    "license": "Apache-2.0",
}
LOOPS = {
    "none": "generate_adablock",
    "prefix": "generate_adablock_prefix_cache",
    "dual": "generate_adablock_dual_cache",
}


def plans() -> list[dict[str, Any]]:
    """Settings by the published names; no `delimiter_threshold` is an infinite one."""
    lengths = ((8, 32), (16, 48), (32, 64), (6, 44))
    thresholds = ((0.3, 0.9), (0.5, 0.9), (0.3, 0.5), (0.7, 0.6))
    found = [
        {
            "cache": cache,
            "delimiter_threshold": delimiter,
            "threshold": threshold,
            "init_block_length": block,
            "gen_length": gen,
        }
        for (block, gen), (delimiter, threshold), cache in itertools.product(
            lengths, thresholds, LOOPS
        )
    ]
    fixed = {"threshold": 0.9, "init_block_length": 10, "gen_length": 44}
    return found + [{"cache": cache, "delimiter_threshold": None, **fixed} for cache in LOOPS]


class Published(tiny.Cached):
    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        plain = self.run(plan | {"delimiter_threshold": None}, prompt)
        frequent = [token for token, _ in Counter(plain["tokens"]).most_common(2)]
        decoded = self.run(plan | {"delimiter_ids": frequent}, prompt)
        return {"delimiter_ids": frequent, **self.compare(decoded, plain)}

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        import generate_adablock

        given = {k: value for k, value in plan.items() if k != "cache" and value is not None}
        generate = getattr(generate_adablock, LOOPS[plan["cache"]])
        lengths: list[int] = []

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            found, nfe, blocks = generate(self.model, tokens, mask_id=common.MASK, **given)
            lengths.extend(blocks)
            return found, sum(nfe)

        return self.counted(loop, prompt) | {"block_history": lengths}


def main() -> None:
    folder, output = common.paths("adablock_llada")
    common.stand_in("einops", rearrange=None)
    sys.path.insert(0, str(folder))
    models = [Published(number) for number in range(len(tiny.SHAPES))]
    files = [folder / "generate_adablock.py", folder / "model/modeling_llada.py"]
    common.record(output, SOURCE, files, models, plans(), tiny.LENGTHS)
    tiny.tell_changed(models, len(plans()), "blocks that end at delimiters")


if __name__ == "__main__":
    main()
