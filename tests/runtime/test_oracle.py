from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from lockstep.drawn import SHAPES, engine_of, model_of
from lockstep.trained import trained_engine

from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.runtime.oracle import block_of, floors
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from lockstep.drawn import Shape

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]


def prompts(task: str, count: int) -> list[list[int]]:
    return [
        trained_engine().encode(sample.prompt) for sample in get_task(task).samples("test", count)
    ]


def responses(given: list[list[int]], config: DecodingConfig) -> tuple[list[list[int]], list[int]]:
    output = trained_engine().generate(given, config=config, max_new_tokens=32)
    return output.tokens, output.nfe


def followed(shape: Shape, prompt: list[int], length: int, block: int) -> tuple[list[int], int]:
    """The definition, with one full evaluation after the other: final tokens and their number."""
    module, spec = model_of(shape).module, model_of(shape).spec
    [final] = (
        engine_of(shape)
        .generate(
            [prompt],
            config=QUALITY_REFERENCE.replace(
                schedule={"kind": "blocks", "block_length": block}, stop={"kind": "length"}
            ),
            max_new_tokens=length,
        )
        .tokens
    )
    canvas, evaluations = [*prompt, *[spec.mask_id] * length], 0
    for start in range(len(prompt), len(canvas), block):
        places = range(start, min(start + block, len(canvas)))
        while masked := [p for p in places if canvas[p] == spec.mask_id]:
            logits = module(torch.tensor([canvas]))[0].double()
            evaluations += 1
            probability = logits.softmax(-1)
            probability[:, spec.mask_id] = 0
            best = probability.argmax(-1).tolist()
            right = [p for p in masked if best[p] == final[p - len(prompt)]]
            surest = max(masked, key=lambda p: float(probability[p].max()))
            for place in right or [surest]:
                canvas[place] = final[place - len(prompt)]
    assert canvas[len(prompt) :] == final
    return final, evaluations


@pytest.mark.parametrize("block", [3, 8])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=lambda shape: str(shape.seed))
def test_it_commits_what_is_right_and_else_the_surest(shape: Shape, block: int) -> None:
    shape = replace(shape, spec=(("eos_ids", ()),))
    found = floors(engine_of(shape), PROMPTS, max_new_tokens=10, block_length=block, batch=2)
    wanted = [followed(shape, prompt, 10, block) for prompt in PROMPTS]
    assert [(floor.tokens, floor.nfe) for floor in found] == wanted
    assert [floor.reference_nfe for floor in found] == [10, 10, 10]


def test_lossless_policies_need_as_many_evaluations_or_more() -> None:
    given, blocks = prompts("addition", 4), {"kind": "blocks", "block_length": 8}
    found = floors(trained_engine(), given, max_new_tokens=32, block_length=8)
    reference = QUALITY_REFERENCE.replace(schedule=blocks)
    final, nfe = responses(given, reference)
    assert [floor.tokens[: len(end)] for floor, end in zip(found, final, strict=True)] == final
    assert [floor.reference_nfe for floor in found] == nfe
    assert all(floor.nfe <= n for floor, n in zip(found, nfe, strict=True))
    for branches in (2, 4):
        speculating = reference.replace(verify={"kind": "self_speculation", "branches": branches})
        tokens, drafted = responses(given, speculating)
        assert tokens == final
        assert all(floor.nfe <= n for floor, n in zip(found, drafted, strict=True))
        assert sum(drafted) < sum(nfe)


def test_blocks_behind_the_end_are_left() -> None:
    [floor] = floors(trained_engine(), prompts("addition", 1), max_new_tokens=32, block_length=8)
    assert trained_engine().spec.eos_ids[0] in floor.tokens[:8]
    assert floor.tokens[8:] == [trained_engine().spec.mask_id] * 24


@pytest.mark.parametrize(
    ("schedule", "length", "block"),
    [
        ({"kind": "blocks", "block_length": 8}, 32, 8),
        ({"kind": "blocks", "block_length": 32}, 8, 8),
        ({"kind": "whole"}, 24, 24),
    ],
)
def test_a_configuration_is_compared_in_its_own_blocks(
    schedule: dict[str, object], length: int, block: int
) -> None:
    assert block_of(DecodingConfig(schedule=schedule), length) == block
