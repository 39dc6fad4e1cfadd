from __future__ import annotations

import pytest
import torch
from rows.made import MASK, SPEC, Store, matching

from dllmc.policies.belief.smoothing import Smoothing
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

SHARES = [0.5, 0.25, 0.125, 0.0625, 0.0625]  # the last is the mask's
POSITIONS = torch.tensor([[7]])


def mixed(policy: Smoothing, evaluations: int, token: int = MASK) -> dict[int, float]:
    """Weights by token of a row that was predicted like that, by both sides."""
    progress = BlockProgress(step=0, masks=1, blocks=1, evaluations=evaluations)
    values = {n: torch.tensor([v]).double() for n, v in policy.values(progress).items()}
    memory = Store(policy.remembers(SPEC), 1, torch.float64).recall(POSITIONS)
    logits = torch.tensor([[SHARES]]).double().log()
    tokens = torch.tensor([[token]])
    made = {"memory": memory, "positions": POSITIONS, "tokens": tokens}
    evaluated = matching(logits, needs=policy.needs, **made)
    rows, held = policy.observe(evaluated.rows, values)
    assert held is None
    found: dict[int, float] = {}
    weights = rows.memory["belief.weights"][0, 0].tolist()
    for v, weight in zip(rows.memory["belief.ids"][0, 0].tolist(), weights, strict=True):
        found[v] = found.get(v, 0) + weight
    expected = policy.mixtures(evaluated.predictions[0], progress, {})
    assert expected == ({} if token != MASK else {7: pytest.approx(found)}, False)
    return found


def test_the_prediction_is_added_to_the_mask() -> None:
    policy = Smoothing(weight=0.5, initial=0.5, top=4)
    expected = {MASK: 1 + 0.5 * 0.0625, 0: 0.25, 1: 0.125, 2: 0.0625, 3: 0.03125}
    assert mixed(policy, 0) == pytest.approx(expected)


def test_what_is_not_among_the_first_weighs_on_the_mask() -> None:
    policy = Smoothing(weight=0.5, initial=0.5, top=2)
    assert mixed(policy, 0) == pytest.approx({MASK: 1 + 0.5 * 0.25, 0: 0.25, 1: 0.125})


def test_its_weight_grows_with_the_evaluations() -> None:
    policy = Smoothing(weight=0.375, initial=0.125, growth=0.125, top=4)
    assert [mixed(policy, n)[0] for n in range(4)] == pytest.approx(
        [0.0625, 0.125, 0.1875, 0.1875]
    )


def test_without_weight_the_mask_is_fed_as_it_is() -> None:
    found = mixed(Smoothing(weight=0), 3)
    assert found.pop(MASK) == 1
    assert set(found.values()) == {0}


def test_a_committed_row_is_left_alone() -> None:
    assert set(mixed(Smoothing(), 0, token=2).values()) == {0}


def test_rows_are_mixed_of_the_mask_and_the_first_tokens() -> None:
    assert (Smoothing(top=95).width, Smoothing(top=95).needs) == (96, {"top95"})
    assert [n for n, knob in Smoothing.knobs().items() if knob.structural] == ["top"]
    assert (
        Smoothing(top=8).structure() != Smoothing().structure() == Smoothing(weight=0).structure()
    )


def test_drafts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"do not go together.* use `belief\.kind`='mask'"):
        DecodingConfig(belief={"kind": "smoothing"}, verify={"kind": "self_speculation"})


@pytest.mark.parametrize(
    "fields",
    [{"weight": -0.1}, {"initial": -1}, {"growth": float("inf")}, {"top": 0}, {"top": 257}],
)
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Smoothing(**fields)  # type: ignore[arg-type]
