from __future__ import annotations

import pytest
import torch
from rows.made import rows

from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import BlockProgress
from dllmc.policies.verify.self_speculation import SelfSpeculation
from dllmc.spec import ConfigError


def test_it_takes_as_many_canvases_as_branches() -> None:
    policy = SelfSpeculation(branches=6)
    assert (policy.lanes, policy.tree) == (6, False)
    assert SelfSpeculation(form="tree").tree


def test_candidates_and_their_order_are_remembered_for_drafts() -> None:
    made = rows([[0.5, 0.25]], ids=torch.tensor([[3, 1]]))
    found = SelfSpeculation().draft(made).memory
    assert found["verify.ids"].tolist() == [[3, 1]]
    assert found["verify.doubt"].tolist() == [[0.5, 0.25]]
    ordered = SelfSpeculation().draft(made.having(order=torch.tensor([[4.0, 9.0]])))
    assert ordered.memory["verify.doubt"].tolist() == [[4.0, 9.0]]


def test_drafts_go_as_far_as_so_many_steps_would() -> None:
    planned = BlockProgress(step=0, masks=8, blocks=2, remaining=8)
    # Eight tokens in five steps: two in each of the first three.
    assert Quota(steps=10).drafts(planned, 5) == [0, 2, 4, 6, 7]
    assert Quota().drafts(planned, 3) == [0, 1, 2]
    assert Threshold().drafts(planned, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        ({"temperature": 0.5}, "noise is drawn step by step"),
        ({"score": {"kind": "credit"}}, "drafts skip some"),
        ({"score": {"kind": "random"}, "commit": {"kind": "quota"}}, "drawn anew in every step"),
        ({"stop": {"kind": "kl"}}, "drafts skip some"),
        ({"stop": {"kind": "eot"}}, "drafts go on"),
        ({"revise": {"kind": "edit"}}, "hold only if what was committed before them stays"),
        ({"commit": {"kind": "timesteps"}}, "depends on the number of steps"),
        ({"cache": {"kind": "dkv"}}, "on keys that the steps between them would have changed"),
    ],
)
def test_what_does_not_go_with_it_is_refused(policies: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        DecodingConfig(verify={"kind": "self_speculation"}, **policies)


def test_nothing_of_it_is_lossy_and_all_of_it_structural() -> None:
    knobs = SelfSpeculation.knobs()
    assert knobs.keys() == {"branches", "form"}
    assert not any(knob.lossy for knob in knobs.values())
    assert all(knob.structural for knob in knobs.values())


@pytest.mark.parametrize("fields", [{"branches": 0}, {"branches": 65}, {"form": "list"}])
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        SelfSpeculation(**fields)
