from __future__ import annotations

from typing import Any

import pytest
import torch
from rows.made import MASK, SPEC, Store, matching

from dllmc.policies.standing import BlockProgress
from dllmc.policies.stop.kl import KlStop
from dllmc.spec import ConfigError

SHARES = [0.5, 0.25, 0.125, 0.0625, 0.0625]  # the last is the mask's
CLOSE = [0.4375, 0.25, 0.1875, 0.0625, 0.0625]
FAR = [0.125, 0.25, 0.5, 0.0625, 0.0625]
POSITIONS = torch.tensor([[7, 8, 9]])


class Decision:
    """Both sides over successive evaluations of a block of three rows."""

    def __init__(self, policy: KlStop) -> None:
        self.policy = policy
        self.store = Store(policy.remembers(SPEC), 1, torch.float64)
        self.memory: dict[str, Any] = {}

    def see(self, shares: list[float], step: int, decided: int) -> bool:
        """Whether the rows after the first `decided` all commit."""
        policy = self.policy
        progress = BlockProgress(step=step, masks=3, blocks=1, remaining=3 - decided)
        values = {n: torch.tensor([v]).double() for n, v in policy.values(progress).items()}
        evaluated = matching(
            torch.tensor([[shares] * 3]).double().log(),
            needs=policy.needs,
            memory=self.store.recall(POSITIONS),
            positions=POSITIONS,
            tokens=torch.tensor([[1] * decided + [MASK] * (3 - decided)]),
        )
        rows, filled = policy.fills(evaluated.rows, values)
        self.store.keep(POSITIONS, rows.memory)
        assert filled is not None
        eligible = [row for row in evaluated.predictions[0] if row.masked]
        found = policy.fills_oracle(eligible, progress, self.memory)
        assert filled.tolist() == [found]
        return found


def test_a_block_fills_when_a_commit_has_hardly_changed_it() -> None:
    decision = Decision(KlStop(threshold=0.1))
    assert not decision.see(SHARES, 0, 0)
    assert decision.see(CLOSE, 1, 1)


def test_it_does_not_while_predictions_change() -> None:
    decision = Decision(KlStop(threshold=0.1))
    seen = [SHARES, FAR, FAR]
    assert [decision.see(s, n, n) for n, s in enumerate(seen)] == [False, False, True]


def test_without_a_commit_in_between_nothing_follows() -> None:
    decision = Decision(KlStop(threshold=0.1))
    steps = [(0, 0), (1, 0), (2, 1)]
    assert [decision.see(SHARES, *at) for at in steps] == [False, False, True]


def test_another_block_is_not_compared() -> None:
    decision = Decision(KlStop(threshold=0.1))
    decision.see(SHARES, 0, 0)
    assert not decision.see(SHARES, 0, 1)


def test_nothing_is_below_a_threshold_of_0() -> None:
    decision = Decision(KlStop(threshold=0))
    decision.see(SHARES, 0, 0)
    assert not decision.see(CLOSE, 1, 1)


def test_a_response_ends_at_its_end_of_sequence() -> None:
    responses = torch.tensor([[1, 2, MASK], [1, MASK, 2], [1, 1, MASK], [1, 1, 1]])
    found = KlStop().finished(responses, MASK, torch.tensor([2]))
    assert found.tolist() == [True, False, False, True]
    assert found.tolist() == [KlStop().oracle(r, MASK, [2]) for r in responses.tolist()]
    assert KlStop.cuts


def test_it_asks_for_the_first_tokens() -> None:
    assert KlStop(top=8).needs == {"top8"}
    assert [n for n, knob in KlStop.knobs().items() if knob.structural] == ["top"]


@pytest.mark.parametrize("fields", [{"threshold": -1}, {"top": 0}, {"top": 257}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        KlStop(**fields)  # type: ignore[arg-type]
