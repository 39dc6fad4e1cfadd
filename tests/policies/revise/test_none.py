from __future__ import annotations

from dllmc.policies.revise.none import NoRevision


def test_it_has_nothing_to_tune() -> None:
    assert NoRevision().kind == "none"
    assert NoRevision.knobs() == {}
