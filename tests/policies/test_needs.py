"""What a configuration does not use is not asked of an evaluation."""

from __future__ import annotations

import pytest
from rows.given import made

from dllmc.policies._registry import kinds
from dllmc.policies.axes import AXES

NEEDS = {
    "belief.lrd": {"entropy", "top16"},
    "belief.smoothing": {"top16"},
    "commit.entropy": {"entropy"},
    "commit.entropy_bound": {"entropy"},
    "score.credit": {"gather4"},
    "score.entropy": {"entropy"},
    "score.margin": {"second"},
    "stop.kl": {"top16"},
    "verify.apd": {"logits"},
    "verify.joint_sampler": {"hidden"},
    "constrain.json_schema": {"logits"},
    "constrain.regex": {"logits"},
}


@pytest.mark.parametrize(("axis", "kind"), [(axis, kind) for axis in AXES for kind in kinds(axis)])
def test_a_kind_asks_for_what_it_uses_and_nothing_else(axis: str, kind: str) -> None:
    assert made(kinds(axis)[kind]).needs == NEEDS.get(f"{axis}.{kind}", set())
