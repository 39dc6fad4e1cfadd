"""Decodes of LLaDA by Learn2PD's filter and EoTP, which cuts the canvas at an end of text.

    python benchmarks/parity/decode_learn2pd.py CLONE/llada tests/golden/learn2pd.json

CLONE is one of wyffffff/cora-diff-llada, whose `generate.py` and `model/small_model.py` hold the
code of ims-kdks/Learning-to-Parallel-Decoding; that repository was not available. Needs
transformers 4.49. The code names the token that ends a text by LLaDA's number: here it is
replaced by `eot_id`, or by one that is never predicted. Filters follow from `filter_seed`.
"""

from __future__ import annotations

import ast
import itertools
import sys
import types
from typing import TYPE_CHECKING, Any, ClassVar

import decode_common as common
import decode_tiny as tiny
from golden.filters import draw_filter

if TYPE_CHECKING:
    from pathlib import Path

    import torch

SOURCE = {
    "repository": "wyffffff/cora-diff-llada",
    "commit": "c241769833669d8ed2bea73413c580e59e4d51e7",
    "license": "none",
    "rule_of": "ims-kdks/Learning-to-Parallel-Decoding",
}
EOT = 126081
NEVER = common.VOCABULARY
BLOCKS = ((8, 32), (16, 48), (32, 32))
THRESHOLDS = (0.96, 0.9, 0.5)
LOOPS = {
    "learn2parallel": "generate_learn2parallel",
    "l2p_eot": "generate_l2p_eot",
    "predict_eot": "generate_predict_eot",
    "prefix": "generate_with_prefix_cache",
    "dual": "generate_with_dual_cache",
}


def plans() -> list[dict[str, Any]]:
    """Settings by the published names; `loop` says which decodes, `end` whether a text can end."""

    def crossed(*loops: tuple[str, bool]) -> list[dict[str, Any]]:
        return [
            {
                "loop": loop,
                "end": end,
                "accept_thres": threshold,
                "filter_seed": seed,
                "block_length": block,
                "gen_length": gen,
            }
            for seed, ((block, gen), threshold, (loop, end)) in enumerate(
                itertools.product(BLOCKS, THRESHOLDS, loops)
            )
        ]

    found = crossed(("learn2parallel", False), ("l2p_eot", True)) * 2
    found += crossed(("prefix", False), ("prefix", True), ("dual", False), ("dual", True))
    alone = {"loop": "predict_eot", "end": True, "accept_thres": None, "filter_seed": None}
    return found + [{**alone, "block_length": b, "gen_length": g} for b, g in BLOCKS] * 2


class Published(tiny.Cached):
    published: ClassVar[types.ModuleType]

    def decode(self, plan: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        whole = self.run(plan, prompt, NEVER)
        if not plan["end"]:
            return self.compare(whole, self.run(plan | {"accept_thres": 2.0}, prompt, NEVER))
        response = whole["tokens"]
        end = response[len(response) // 2]
        return {"eot_id": end, **self.compare(self.run(plan, prompt, end), whole)}

    def run(self, plan: dict[str, Any], prompt: list[int], end: int) -> dict[str, Any]:
        self.published.ENDING = end
        generate = getattr(self.published, LOOPS[plan["loop"]])
        given = {name: plan[name] for name in ("block_length", "gen_length")}
        given |= {"steps": plan["gen_length"], "mask_id": common.MASK}
        if plan["filter_seed"] is not None:
            kind = self.published.LogisticRegression(plan["block_length"])
            kind.load_state_dict(draw_filter(plan["block_length"], plan["filter_seed"]))
            given |= {"small_model": kind.eval(), "accept_thres": plan["accept_thres"]}

        def loop(tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
            return generate(self.model, prompt=tokens, **given), None

        return self.counted(loop, prompt)


class Ending(ast.NodeTransformer):
    """Puts a name where the code has the number of the token that ends a text."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Name("ENDING", ast.Load()) if node.value == EOT else node


def load(file: Path) -> types.ModuleType:
    tree = ast.fix_missing_locations(Ending().visit(ast.parse(file.read_text())))
    module = types.ModuleType("published")
    module.ENDING = NEVER
    exec(compile(tree, str(file), "exec"), vars(module))
    return module


def main() -> None:
    folder, output = common.paths("learn2pd_llada")
    sys.path.insert(0, str(folder))
    Published.published = load(folder / "generate.py")
    models = [Published(number) for number in range(len(tiny.SHAPES))]
    names = ("generate", "model/small_model", "model/modeling_llada")
    files = [folder / f"{name}.py" for name in names]
    settings = plans()
    common.record(output, SOURCE, files, models, settings, tiny.LENGTHS)
    tiny.tell_changed(models, len(settings), "the filter, or the cut")


if __name__ == "__main__":
    main()
