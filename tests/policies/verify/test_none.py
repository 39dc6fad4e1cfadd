from __future__ import annotations

from dllmc.policies.verify.none import NoVerify


def test_it_has_nothing_to_tune() -> None:
    assert NoVerify().kind == "none"
    assert NoVerify.knobs() == {}
