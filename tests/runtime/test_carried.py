from __future__ import annotations

import pytest
from lockstep.compare import Request, Tally, run
from lockstep.drawn import SHAPES, engine_of, model_of

from dllmc.policies.config import DecodingConfig

SHIFTED = [shape for shape in SHAPES if shape.spec == (("logit_shift", 1),)]


@pytest.mark.parametrize("score", ["probability", "margin", "entropy", "random"])
def test_a_carried_first_row_has_all_that_the_refresh_said_of_it(score: str) -> None:
    tally = Tally()
    for seed, kind in enumerate(("prefix", "dual")):
        config = DecodingConfig(
            schedule={"kind": "blocks", "block_length": 5},
            score={"kind": score},
            commit={"kind": "entropy", "threshold": 1.5},
            cache={"kind": kind, "window_first": "carried", "refresh_commits": "policy"},
            stop={"kind": "length"},
            temperature=1.0,
            seed=seed,
        )
        for shape in SHIFTED:
            model = model_of(shape)
            requests = [Request(p, config, 15, p[0]) for p in ([5, 6, 7], [9], [3, 3, 8, 2, 14])]
            tally.add(run(engine_of(shape), model.module, model.spec, requests))
    assert not tally.unexcused
    assert tally.steps > 20
