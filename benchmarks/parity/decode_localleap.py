"""Decodes of LLaDA by the rule of LocalLeap: a lower threshold near confident tokens.

    python benchmarks/parity/decode_localleap.py CLONE/llada tests/golden/localleap.json

CLONE is one of lizhuo-luo/DAWN, whose `generate.py` holds LocalLeap's function for comparison;
its own repository, friedrichor/LocalLeap, was not available. The loop runs on our module.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

import decode_common as common
import decode_tiny as tiny

if TYPE_CHECKING:
    import torch

SOURCE = {
    "repository": "lizhuo-luo/DAWN",
    "commit": "ab428980e325e85b04b100e1dd27ed1ad4ddb005",
    "license": "MIT",
    "rule_of": "friedrichor/LocalLeap",
}


def plans() -> list[dict[str, Any]]:
    """Settings by the published names."""
    thresholds = ((0.9, 0.75), (0.9, 0.5), (0.7, 0.4), (0.5, 0.3))
    return [
        {
            "threshold": threshold,
            "relaxed_threshold": relaxed,
            "radius": radius,
            "block_length": block,
            "gen_length": gen,
        }
        for (block, gen), (threshold, relaxed), radius in itertools.product(
            ((8, 32), (16, 48), (32, 32)), thresholds, (4, 1, 2, 8, 0)
        )
    ]


class Published(tiny.Plain):
    def __call__(self, tokens: torch.Tensor, return_attn_scores: bool = False) -> Any:
        assert not return_attn_scores
        return super().__call__(tokens), None

    def run(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        from generate import generate

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
            steps = plan["gen_length"]
            found: tuple[torch.Tensor, int] = generate(
                self, tokens, steps, local_leap=True, mask_id=common.MASK, **plan
            )
            return found

        return self.counted(loop, prompt)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        plain = self.run(plan | {"relaxed_threshold": None}, prompt)
        decoded = self.run(plan, prompt)
        if plan["radius"] == 0:
            assert decoded == plain
        return self.compare(decoded, plain)


def main() -> None:
    folder, output = common.paths("dawn_llada")
    common.stand_in("matplotlib")
    common.stand_in("matplotlib.pyplot")
    common.stand_in("seaborn")
    common.stand_in("model")
    common.stand_in("model.modeling_llada", LLaDAModelLM=None)
    sys.path.insert(0, str(folder))
    models = [Published(number) for number in range(len(tiny.SHAPES))]
    files = [folder / "generate.py"]
    common.record(output, SOURCE, files, models, plans(), tiny.LENGTHS)
    tiny.tell_changed(models, len(plans()), "a lower threshold near anchors")


if __name__ == "__main__":
    main()
