"""Decodes by Fast-dLLM v2: `batch_sample` of its repository and `generate` of its model.

    python benchmarks/parity/decode_fast_dllm_v2.py CLONE/v2 MODEL tests/golden/fast_dllm_v2.json

MODEL is a folder with `modeling.py` and `configuration.py` of the checkpoint's repository
(Efficient-Large-Model/Fast_dLLM_v2_7B). Needs transformers 4.57 and einops.

A prompt of exactly one block is left out: both then decode as if there were none.
"""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import decode_common as common
import torch

SOURCE = {
    "repository": "NVlabs/Fast-dLLM (loop), Efficient-Large-Model/Fast_dLLM_v2_7B (model)",
    "commit": "a9b81e4caa240c8cad4f7dc1889ff4852a0fca5b (loop)",
    "model": "the copy in wangziyannb/Fast-dLLM fd27cb3, v2/modeling_ori.py as modeling.py",
    "license": "Apache-2.0",
}
# Width, heads, key and value heads, layers.
SHAPES = ((32, 4, 2, 2), (32, 4, 4, 2), (48, 6, 2, 3), (32, 8, 2, 2))
LENGTHS = (1, 3, 6, 7, 9, 12, 18, 21, 24, 32, 35, 40)
NEVER = -1


def keys(number: int) -> dict[str, Any]:
    return common.qwen_keys("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen", number, SHAPES[number])


def plans() -> list[dict[str, Any]]:
    """Settings by the published names."""
    sizes = ((8, 4), (16, 4), (16, 8), (32, 8), (8, 8))
    found = [
        {
            "block_size": block,
            "small_block_size": small,
            "threshold": threshold,
            "max_new_tokens": max(32, block),
            "use_block_cache": cached,
        }
        for (block, small), threshold, cached in itertools.product(
            sizes, (0.9, 0.5, 0.25), (False, True)
        )
    ]
    # `stop` marks those that end at a token.
    alone = [plan | {"loop": "generate"} for plan in found[::2] + found[1::2]]
    return found * 5 + alone + [plan | {"stop": True} for plan in alone]


class Published:
    def __init__(self, number: int) -> None:
        self.keys = keys(number)
        from configuration import Fast_dLLM_QwenConfig
        from generation_functions import Fast_dLLM_QwenForCausalLM as Loop
        from modeling import Fast_dLLM_QwenForCausalLM

        model = Fast_dLLM_QwenForCausalLM(Fast_dLLM_QwenConfig(**self.keys))
        self.model = common.give_weights(model, common.scales(number))
        self.probe = common.probe(lambda tokens: self.model(tokens).logits, 7)
        self.calls = common.Calls(self._kind)
        self.calls.watch(self.model)
        self.loop = types.MethodType(Loop.batch_sample, self.model)

    @staticmethod
    def _kind(call: dict[str, Any]) -> str:
        if call["update_past_key_values"]:
            return "store"
        return "small" if call.get("replace_position") is not None else "block"

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any] | None:
        if len(prompt) == plan["block_size"]:
            return None
        given = {key: value for key, value in plan.items() if key not in ("loop", "stop")}
        run = self._alone if plan.get("loop") == "generate" else self._batched
        decoded = run(prompt, stop_token=NEVER, **given)
        if not plan.get("stop"):
            return decoded
        later = decoded["tokens"][len(decoded["tokens"]) // 2 :]
        endings = [token for token in later if token not in prompt]
        if not endings:
            return None
        ending = {"stop_token": endings[0]}
        return ending | run(prompt, **ending, **given)

    def _batched(self, prompt: list[int], **given: Any) -> dict[str, Any]:
        self.calls.clear()
        found = self.loop(
            torch.tensor([prompt]),
            tokenizer=types.SimpleNamespace(pad_token_id=common.PAD),
            min_len=len(prompt),
            seq_len=torch.tensor([len(prompt)]),
            mask_id=common.MASK,
            **given,
        )
        return {"tokens": found[0].tolist()[len(prompt) :], **self.calls.taken()}

    def _alone(self, prompt: list[int], **given: Any) -> dict[str, Any]:
        self.calls.clear()
        found = self.model.generate(torch.tensor([prompt]), mask_id=common.MASK, **given)
        return {"tokens": found[0].tolist()[len(prompt) :], **self.calls.taken()}


def main() -> None:
    loop_folder, model_folder, output = common.paths("fast_dllm_v2", "model")
    sys.path[:0] = [str(loop_folder), str(model_folder)]
    models = [Published(number) for number in range(len(SHAPES))]
    files = [loop_folder / "generation_functions.py", model_folder / "modeling.py"]
    common.record(output, SOURCE, files, models, plans(), LENGTHS)


if __name__ == "__main__":
    main()
