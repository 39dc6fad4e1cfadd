from __future__ import annotations

from dllmc.policies.constrain.none import NoConstraint


def test_it_has_nothing_to_tune() -> None:
    assert NoConstraint().kind == "none"
    assert NoConstraint.knobs() == {}
