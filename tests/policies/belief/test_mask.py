from __future__ import annotations

from dllmc.policies.belief.mask import MaskEmbedding


def test_it_has_nothing_to_tune() -> None:
    assert MaskEmbedding().kind == "mask"
    assert MaskEmbedding.knobs() == {}
