from __future__ import annotations

import pytest
import torch
from golden.published import SYSTEMS, probe, stored

MODELS = [
    (system, number) for system in SYSTEMS for number in range(len(stored(system)["models"]))
]


@pytest.mark.parametrize(("system", "number"), MODELS)
def test_logits_are_those_of_the_published_model(system: str, number: int) -> None:
    ours, published = probe(system, number)
    # They are stored to five digits after the point.
    torch.testing.assert_close(ours, published, rtol=0, atol=2e-5)
