"""Lockstep on the trained model, whose confidences crowd near 1 as a random model's do not."""

from __future__ import annotations

import pytest
from lockstep.compare import Request, Tally, run
from lockstep.trained import embedded, trained_engine

from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.tasks import generator_tasks

BLOCKS = {"kind": "blocks", "block_length": 16}
CONFIGS = {
    "quality reference": QUALITY_REFERENCE.replace(stop={"kind": "length"}),
    "speed baseline": SPEED_BASELINE,
    "prefix, factor": DecodingConfig(
        schedule=BLOCKS, cache={"kind": "prefix", "refresh_every": 4}, commit={"kind": "factor"}
    ),
    "dual, quota, sampled": DecodingConfig(
        schedule=BLOCKS, commit={"kind": "quota", "steps": 16}, temperature=0.7, seed=2
    ),
}


def prompts(count: int) -> list[list[int]]:
    samples = [task.samples("tune", count) for task in generator_tasks()]
    encode = trained_engine().encode
    return [encode(sample.prompt) for drawn in samples for sample in drawn]


def compare(backend: str, config: DecodingConfig, count: int, every: int = 1) -> Tally:
    model, total, given = embedded(), Tally(), prompts(count)[::every]
    length = model.spec.max_length - (model.spec.prompt_slots or 0)
    for first in range(0, len(given), 7):
        requests = [
            Request(prompt, config, length, stream)
            for stream, prompt in enumerate(given[first : first + 7])
        ]
        total.add(run(trained_engine(backend), model.module, model.spec, requests))
    return total


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_few_prompts(config: DecodingConfig) -> None:
    compare("eager", config, 1, every=4).check()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_prompts_of_every_task(backend: str) -> None:
    total = Tally()
    for config in CONFIGS.values():
        total.add(compare(backend, config, 2))
    total.check()
    assert total.decisions > 10_000
