from __future__ import annotations

import torch
from rows.made import matching, predictions, rows

from dllmc.policies.score.probability import Probability
from dllmc.policies.standing import BlockProgress

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)


def test_doubt_is_the_odds_against_the_candidate() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, 0.5, 1.5], dtype=torch.float64)
    probability = logits.softmax(-1)[0]
    evaluated = matching(logits[None, None])
    doubt = Probability().judge(evaluated.rows, {}).doubt
    assert torch.allclose(1 / (1 + doubt), probability)
    asked = [row.having(doubt=9.0) for row in predictions([0.25, 0.0])]
    judged = Probability().oracle(asked, PROGRESS, {})
    assert [row.doubt for row in judged] == [0.25, 0.0]
    unjudged = rows([[0.25, 0.0]]).having(doubt=torch.full((1, 2), 9.0))
    assert Probability().judge(unjudged, {}).doubt.tolist() == [[0.25, 0.0]]
    assert Probability.knobs() == {}
