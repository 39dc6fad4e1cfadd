from __future__ import annotations

from typing import Any

import pytest
import torch
from rows.made import CANDIDATE, MASK, OTHER, SPEC, Store, predictions, rows

from dllmc.policies._hash import uniform_of
from dllmc.policies.config import DecodingConfig
from dllmc.policies.revise.remask import Remask
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

POSITIONS = torch.tensor([[7, 8, 9, 10]])
Revised = tuple[set[int], set[int]]


class Decision:
    """Both sides over successive evaluations of a block of four rows."""

    def __init__(self, policy: Remask, seed: int = 3) -> None:
        self.policy, self.seed = policy, seed
        self.store = Store(policy.remembers(SPEC), 1, torch.float64)
        self.memory: dict[str, Any] = {}

    def see(
        self, tokens: list[int], doubts: list[float], committed: set[int], step: int = 0
    ) -> Revised:
        """Positions replaced, and masked again; `committed` commit now."""
        policy, progress = self.policy, BlockProgress(step=step, masks=4, blocks=1)
        values = {n: torch.tensor([v]).double() for n, v in policy.values(progress).items()}
        counters = (self.seed, 0, step)
        places = POSITIONS[0].tolist()
        made = rows(
            torch.tensor([doubts]).double(),
            tokens=torch.tensor([tokens]),
            positions=POSITIONS,
            counters=torch.tensor([counters]),
            memory=self.store.recall(POSITIONS),
        )
        now = torch.tensor([[p in committed for p in places]])
        found, revision = policy.select(made, now, values)
        self.store.keep(POSITIONS, found.memory)
        asked = predictions(doubts, positions=places, tokens=tokens)
        asked = [row.having(counters=counters) for row in asked]
        expected = policy.oracle(asked, committed, progress, self.memory)
        assert [set(POSITIONS[flags].tolist()) for flags in revision] == [*expected]
        return expected


def test_what_was_sure_stays_and_what_was_not_is_masked_again() -> None:
    decision = Decision(Remask(eta=1))
    everything = {7, 8, 9, 10}
    assert decision.see([MASK] * 4, [0.0, 1e30, 0.0, 1e30], everything) == (set(), set())
    # Doubts of now do not count.
    again = decision.see([OTHER] * 4, [1e30, 0.0, 1e30, 0.0], set(), step=1)
    assert again == (set(), {8, 10})


def test_one_of_probability_p_is_revised_with_eta_of_1_minus_p() -> None:
    hits = 0
    for seed in range(400):
        decision = Decision(Remask(eta=0.5), seed)
        decision.see([MASK] * 4, [1.0] * 4, {7, 8, 9, 10})
        hits += len(decision.see([OTHER] * 4, [1.0] * 4, set(), step=1)[1])
    assert hits == 394  # of 1600 by a quarter


def test_resampling_gives_another_candidate_and_its_doubt() -> None:
    decision = Decision(Remask(eta=1, how="resample"))
    decision.see([MASK] * 4, [1e30] * 4, {7, 8})
    standing = [OTHER, CANDIDATE, MASK, MASK]
    assert decision.see(standing, [0.0] * 4, set(), step=1) == ({7}, set())
    assert decision.see([OTHER] * 4, [0.0] * 4, set(), step=2) == ({8}, set())


def test_what_it_has_not_seen_committed_stays() -> None:
    assert Decision(Remask(eta=1)).see([OTHER] * 4, [1e30] * 4, set()) == (set(), set())


def test_a_block_revises_in_its_first_evaluations_only() -> None:
    decision = Decision(Remask(eta=1, steps=2))
    decision.see([MASK] * 4, [1e30] * 4, {7, 8, 9, 10})
    assert decision.see([OTHER] * 4, [1e30] * 4, set(), step=1)[1] == {7, 8, 9, 10}
    assert decision.see([OTHER] * 4, [1e30] * 4, set(), step=2)[1] == set()


def test_without_eta_nothing_is_revised() -> None:
    decision = Decision(Remask(eta=0))
    decision.see([MASK] * 4, [1e30] * 4, {7, 8, 9, 10})
    assert decision.see([OTHER] * 4, [1e30] * 4, set(), step=1) == (set(), set())


def test_its_numbers_are_not_those_of_a_random_score() -> None:
    decision = Decision(Remask(eta=0.5))
    decision.see([MASK] * 4, [1e30] * 4, {7, 8, 9, 10})
    reopened = decision.see([OTHER] * 4, [1e30] * 4, set(), step=1)[1]
    assert reopened != {p for p in (7, 8, 9, 10) if uniform_of((3, 0, 1), p) < 0.5}


def test_drafts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"do not go together.* takes tokens back"):
        DecodingConfig(revise={"kind": "remask"}, verify={"kind": "self_speculation"})


@pytest.mark.parametrize("fields", [{"eta": 1.5}, {"steps": -1}, {"steps": 4097}, {"how": "keep"}])
def test_bad_values_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Remask(**fields)
