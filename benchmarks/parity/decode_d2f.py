"""Decodes of LLaDA by D2F's pipelined loop.

    python benchmarks/parity/decode_d2f.py CLONE/D2F-eval tests/golden/d2f.json

CLONE is one of zhijie-group/Discrete-Diffusion-Forcing. The loop is a method of its evaluation
class, which needs an evaluation harness and data sets; both have stand-ins here. Needs
transformers 4.49, PEFT and accelerate. With `block_add_threshold` 1 a block begins when the one
before is finished; its keys are then stored in the evaluation that the next block begins with.

Beside the named file, `d2f_eos.json` holds decodes in which a token ends the response: no block
is added once it was decided. The loop knows only LLaDA's own, which these vocabularies lack; here
the constant stands for a token that the same decode without it holds.
"""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import decode_common as common
import torch

SOURCE = {
    "repository": "zhijie-group/Discrete-Diffusion-Forcing",
    "commit": "771f745",
    "license": "MIT",
}
# Width, heads, key and value heads, layers.
SHAPES = ((32, 4, None, 2), (32, 4, 2, 2), (48, 6, 2, 3))
LENGTHS = (1, 3, 8, 9, 13, 16, 22)
EOS = 126081


def plans() -> list[dict[str, Any]]:
    """Settings by the published names."""
    found = [
        {
            "block_size": block,
            "max_new_tokens": new,
            "block_add_threshold": add,
            "decoded_token_threshold": full,
            "skip_threshold": skip,
        }
        for (block, new), skip, (add, full) in itertools.product(
            ((8, 32), (16, 48), (8, 48)),
            (0.9, 0.5, 0.25),
            ((1.0, 0.95), (0.1, 0.95), (0.5, 0.5)),
        )
    ]
    return found * 5


def ending_at(loop: Any, token: int) -> Any:
    """The published loop with another constant for the token that ends the response."""
    constants = tuple(token if value == EOS else value for value in loop.__code__.co_consts)
    return types.FunctionType(loop.__code__.replace(co_consts=constants), loop.__globals__)


def stand_ins() -> None:
    common.stand_in("datasets", Dataset=object)
    common.stand_in("lm_eval", utils=None)
    common.stand_in("lm_eval.__main__", cli_evaluate=None)
    common.stand_in("lm_eval.api")
    common.stand_in("lm_eval.api.instance", Instance=object)
    common.stand_in("lm_eval.api.model", TemplateLM=object)
    common.stand_in("lm_eval.api.registry", register_model=lambda _: lambda found: found)
    common.stand_in("lm_eval.models")
    common.stand_in("lm_eval.models.utils", get_dtype=None)


class Published:
    names = common.LLADA

    def __init__(self, number: int) -> None:
        from eval_llada import DreamLoRA as Evaluation  # LLaDA's, in spite of its name
        from model_cache.llada.configuration_llada import LLaDAConfig
        from model_cache.llada.modeling_llada import LLaDAModelLM

        self.keys = common.llada_keys(number, SHAPES[number])
        config = LLaDAConfig(**self.keys, init_device="cpu", flash_attention=False)
        model = LLaDAModelLM(config, init_params=True)
        self.model = common.give_weights(model, common.scales(number) | common.LLADA)
        self.probe = common.probe(lambda tokens: self.model(tokens).logits, 7)
        self.calls = common.Calls()
        self.calls.watch(self.model)
        self.evaluation = Evaluation

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        settings = {name: value for name, value in plan.items() if name != "stop"}
        decoded = self.run(settings, prompt, EOS)
        if not plan.get("stop"):
            return decoded
        ending = decoded["tokens"][plan["max_new_tokens"] // 3]
        return {"eos_token_id": ending, **self.run(settings, prompt, ending)}

    def run(self, settings: dict[str, Any], prompt: list[int], ending: int) -> dict[str, Any]:
        own = types.SimpleNamespace(
            model=self.model,
            mask_token_id=common.MASK,
            device=torch.device("cpu"),
            target_dtype=torch.float32,
            max_length=common.LONGEST,
            temperature=0.0,
            top_p=None,
            top_k=None,
            sampling_strategy="default",
            tokenizer=types.SimpleNamespace(decode=lambda *_, **__: ""),
            **settings,
        )
        update = self.evaluation._update_block_completion_states
        own._update_block_completion_states = types.MethodType(update, own)
        self.calls.clear()
        loop = ending_at(self.evaluation._generate_block_single, ending)
        tokens = loop(own, torch.tensor([prompt]))
        return {"tokens": tokens, **self.calls.taken()}


def main() -> None:
    folder, output = common.paths("d2f_eval")
    stand_ins()
    sys.path.insert(0, str(folder))
    models = [Published(number) for number in range(len(SHAPES))]
    files = [folder / "eval_llada.py", folder / "model_cache/llada/modeling_llada.py"]
    common.record(output, SOURCE, files, models, plans(), LENGTHS)
    ended = [plan | {"stop": True} for plan in plans()[:27]]
    common.record(output.with_stem("d2f_eos"), SOURCE, files, models, ended, LENGTHS)


if __name__ == "__main__":
    main()
