"""Decodes of Dream by APD, which commits a prefix that an auxiliary causal model agrees on.

    python benchmarks/parity/decode_apd.py CLONE tests/golden/apd.json

CLONE is one of danielmisrael/apd. Needs transformers 4.54.0. The auxiliary model is a tiny Qwen2
of the same vocabulary; `auxiliary` is its place among the models. `leftright` asks none.
"""

from __future__ import annotations

import itertools
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import decode_common as common
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = {
    "repository": "danielmisrael/apd",
    "commit": "a555561",
    "license": "none",
}
# Width, heads, key and value heads, layers.
DREAM = ((32, 4, 2, 2), (32, 4, 4, 3), (48, 4, 2, 2), (32, 8, 2, 2))
QWEN = ((32, 4, 2, 2), (32, 2, 1, 1), (16, 2, 2, 2), (32, 4, 4, 3))
LENGTHS = (1, 3, 5, 8, 11, 13, 16, 21)
NEVER = -1


def plans() -> Iterator[dict[str, Any]]:
    """Settings by the published names; None is what the function has by default."""
    reach = [*itertools.product((0, 1, 4, 16), (4, 12, None)), (None, 12), (None, None)]
    for new, (window, ahead), weight in itertools.product((32,), reach, (0.5, 0.7, 0.9)):
        yield {
            "alg": "apd",
            "max_new_tokens": new,
            "kv_window": window,
            "max_lookahead": ahead,
            "apd_mixture_weight": weight,
        }
    for weight, stop in ((0.0, False), (1.0, False), (0.7, True), (0.9, True), (0.5, True)):
        plan = {"alg": "apd", "max_new_tokens": 24, "kv_window": 2, "max_lookahead": 8}
        yield {**plan, "apd_mixture_weight": weight} | ({"stop": True} if stop else {})
    for window, ahead, tokens in ((None, None, 1), (4, 12, 1), (4, 12, 3), (0, 4, 2)):
        plan = {"alg": "leftright", "max_new_tokens": 24, "tokens_per_step": tokens}
        yield {**plan, "kv_window": window, "max_lookahead": ahead}


class Auxiliary:
    def __init__(self, number: int) -> None:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        self.keys = common.qwen_keys("Qwen2ForCausalLM", "qwen2", number, QWEN[number])
        model = Qwen2ForCausalLM(Qwen2Config(**self.keys, attn_implementation="sdpa"))
        self.model = common.give_weights(model, common.scales(len(DREAM) + number))
        self.probe = common.probe(lambda tokens: self.model(tokens).logits, 7)


class Published:
    """A published model; counts its decodes with a window that differ from those without."""

    differing = 0

    def __init__(self, number: int, auxiliary: Auxiliary) -> None:
        self.auxiliary, self.place = auxiliary, len(DREAM) + number
        self.keys = common.qwen_keys("DreamModel", "Dream", number, DREAM[number])
        config = import_module("dream.configuration_dream").DreamConfig(
            **self.keys, attn_implementation="sdpa", use_cache=True
        )
        modeling = import_module("dream.modeling_dream")
        self.model = common.give_weights(modeling.DreamModel(config), common.scales(number))
        special = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
        ids = {name: self.keys[name] for name in special}
        self.model.generation_config = modeling.DreamGenerationConfig(**ids)
        self.probe = common.probe(lambda tokens: self.model(tokens, "full").logits, 7)
        self.calls = common.Calls()
        self.calls.watch(self.model)

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        given = {name: value for name, value in plan.items() if name != "stop"}
        whole = self.run(given | {"kv_window": None}, prompt)
        decoded = self.run(given, prompt)
        self.differing += whole != decoded
        if plan.get("stop"):
            ending = decoded["tokens"][plan["max_new_tokens"] // 2]
            decoded = {"eos_token_id": ending, **self.run(given, prompt, ending)}
        return {"auxiliary": self.place, **decoded} if plan["alg"] == "apd" else decoded

    def run(self, given: dict[str, Any], prompt: list[int], ending: int = NEVER) -> dict[str, Any]:
        """Tokens without the masks behind a token that ended the decode."""
        self.calls.clear()
        found = self.model.diffusion_generate(
            torch.tensor([prompt]),
            verifier_model=self.auxiliary.model,
            temperature=0.0,
            top_k=None,  # else 50, which transformers puts into every model's configuration
            eos_token_id=ending,
            return_dict_in_generate=True,
            **given,
        )
        tokens = found.sequences[0, len(prompt) :].tolist()
        return {
            "tokens": [token for token in tokens if token != common.MASK],
            **self.calls.taken(),
            "rows": self.calls.rows(),
            "accepted": found.profile.acceptance_counts,
        }


def main() -> None:
    clone, output = common.paths("clone")
    sys.path.insert(0, str(clone))
    others = [Auxiliary(number) for number in range(len(QWEN))]
    models = [Published(number, other) for number, other in enumerate(others)]
    files = [clone / "dream" / f"{name}.py" for name in ("generation_utils", "modeling_dream")]
    common.record(output, SOURCE, files, models, list(plans()), LENGTHS, others)
    print(f"{sum(model.differing for model in models)} differ from the decode without a cache")


if __name__ == "__main__":
    main()
