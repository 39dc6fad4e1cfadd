"""Decodes of LLaDA by the EB-Sampler of d2Cache, which bounds the entropy of what it commits.

    python benchmarks/parity/decode_eb_sampler.py CLONE tests/golden/eb_sampler.json

CLONE is one of Kamichanw/d2Cache. The loop runs on our module. It takes the largest entropy so
far along the batch (`cummax(dim=0)`) and not along the positions, so that of one prompt every
entropy is its own maximum. Each case is recorded so and with `dim=1`; `cummax_dim` says which.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from typing import Any
from unittest.mock import patch

import decode_common as common
import decode_tiny as tiny
import torch

SOURCE = {
    "repository": "Kamichanw/d2Cache",
    "commit": "72feb60bb288a5a4d14b4bab9afbbaa1fc1b509a",
    "license": "Apache-2.0",
}


def plans() -> list[dict[str, Any]]:
    """Settings by the published names."""
    loose = itertools.product(
        ((32, 64), (24, 48)), ("maskgit_plus", "topk_margin"), (1.5, 3.0, 6.0, 10.0)
    )
    sorted_already = itertools.product(((32, 64),), ("entropy",), (1.5, 6.0))
    tight = itertools.product(((8, 32),), ("maskgit_plus", "topk_margin", "entropy"), (0.5, 0.001))
    return [
        {"cummax_dim": dim, "alg": alg, "gamma": gamma, "block_length": block, "gen_length": gen}
        for (block, gen), alg, gamma in [*list(loose) * 2, *sorted_already, *tight]
        for dim in (0, 1)
    ]


class Published(tiny.Plain):
    dtype = torch.float32

    def __call__(self, tokens: torch.Tensor, **others: Any) -> Any:
        assert not any(others.values())
        return super().__call__(tokens)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        alone = self.run(plan | {"gamma": None}, prompt)
        return self.compare(self.run(plan, prompt), alone)

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        from src.generation.vanilla import vanilla_generate

        given = {key: value for key, value in plan.items() if key != "cummax_dim"}
        cummax = torch.cummax

        def along(entropy: torch.Tensor, dim: int) -> Any:
            assert dim == 0
            return cummax(entropy, dim=plan["cummax_dim"])

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            with patch.object(torch, "cummax", along):
                record = vanilla_generate(self, tokens, mask_token_id=common.MASK, **given)
            last = record.frames[-1]
            return torch.cat([last.prompts, last.generated_tokens], -1), record.num_steps

        return self.counted(loop, prompt)


def load(clone: Any) -> None:
    """Makes the loop importable without the packages' `__init__`, which need much more."""
    for name in ("generation", "utils"):
        common.package(f"src.{name}", clone / "src" / name)
    common.stand_in("src.cache", dCache=object)
    common.stand_in("src.third_party", get_token_freq=None)
    common.stand_in("src.models", LLaDAModelLM=type("LLaDA", (), {}), DreamModel=type("D", (), {}))
    common.stand_in("src.models.dream")
    common.stand_in("src.models.dream.generation_utils", top_k_logits=None, top_p_logits=None)
    os.environ["MASK_TOKEN_ID"] = str(common.MASK)
    from src.utils import common as published

    vars(sys.modules["src.utils"]).update(
        {name: value for name, value in vars(published).items() if not name.startswith("_")},
        is_adapted_from_ar=lambda _: False,
    )


def main() -> None:
    clone, output = common.paths("d2cache")
    load(clone)
    models = [Published(number) for number in range(len(tiny.SHAPES))]
    files = [clone / "src" / name for name in ("generation/vanilla.py", "generation/utils.py")]
    settings = plans()
    common.record(output, SOURCE, files, models, settings, tiny.LENGTHS)
    tiny.tell_changed(models, len(settings), "several tokens at once")
    told = json.loads(output.read_text())["cases"]
    pairs = told[::2], told[1::2]
    apart = sum(as_is["tokens"] != fixed["tokens"] for as_is, fixed in zip(*pairs, strict=True))
    print(f"{apart} of {len(told) // 2} differ between the two dimensions")


if __name__ == "__main__":
    main()
