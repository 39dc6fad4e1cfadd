from __future__ import annotations

import torch

from dllmc.policies.score.probability import Probability


def test_doubt_is_the_odds_against_the_candidate() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)
    probability = logits.softmax(-1)[0]
    tail_mass = (logits[1:] - logits[0]).exp().sum()
    doubt = Probability().doubt(tail_mass[None, None])
    assert torch.allclose(1 / (1 + doubt), probability)
    assert Probability().oracle([0.25, 0.0]) == [0.25, 0.0]
    assert Probability.knobs() == {}
