from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rows.made import MASK, SPEC, Store, matching

from dllmc.policies.belief.lrd import LatentRefinement
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

SHARES = [0.5, 0.25, 0.125, 0.0625, 0.0625]  # the last is the mask's
OTHER = [0.125, 0.25, 0.5, 0.0625, 0.0625]
POSITIONS = torch.tensor([[7]])
CERTAINTY = 1 - sum(-p * math.log(p) for p in SHARES) / math.log(5)


class Decision:
    """Both sides over successive evaluations of one masked row."""

    def __init__(self, policy: LatentRefinement) -> None:
        self.policy = policy
        self.store = Store(policy.remembers(SPEC), 1, torch.float64)
        self.memory: dict[str, Any] = {}

    def see(self, shares: list[float], step: int) -> tuple[dict[int, float], bool]:
        """What the row is fed next, weights by token, and whether nothing may commit."""
        policy, progress = self.policy, BlockProgress(step=step, masks=1, blocks=1)
        values = {n: torch.tensor([v]).double() for n, v in policy.values(progress).items()}
        logits = torch.tensor([[shares]]).double().log()
        given = {"memory": self.store.recall(POSITIONS), "positions": POSITIONS}
        evaluated = matching(logits, needs=policy.needs, **given)
        rows, held = policy.observe(evaluated.rows, values)
        self.store.keep(POSITIONS, rows.memory)
        ids, weights = (rows.memory[f"belief.{n}"][0, 0].tolist() for n in ("ids", "weights"))
        found = {v: w for v, w in zip(ids, weights, strict=True) if w > 0}
        mixtures, waits = policy.mixtures(evaluated.predictions[0], progress, self.memory)
        assert held is not None
        mixture = {v: w for v, w in mixtures[7].items() if w > 0}
        assert ([waits], mixture) == (held.tolist(), pytest.approx(found))
        return found, waits


def test_the_share_of_the_tokens_grows_with_certainty() -> None:
    blend = 0.4 * CERTAINTY
    found, _ = Decision(LatentRefinement(blend=0.4, nucleus=1)).see(SHARES, 0)
    tokens = {v: blend * SHARES[v] / 0.9375 for v in range(4)}
    assert found == pytest.approx({MASK: 1 - blend} | tokens)


def test_tokens_are_mixed_until_they_reach_the_nucleus() -> None:
    blend = 0.4 * CERTAINTY
    for nucleus, kept in ((0.4, [0]), (0.5, [0]), (0.6, [0, 1]), (0.8, [0, 1, 2])):
        found, _ = Decision(LatentRefinement(blend=0.4, nucleus=nucleus)).see(SHARES, 0)
        whole = sum(SHARES[v] for v in kept)
        tokens = {v: blend * SHARES[v] / whole for v in kept}
        assert found == pytest.approx({MASK: 1 - blend} | tokens)


def test_without_blend_the_mask_is_fed_as_it_is() -> None:
    assert Decision(LatentRefinement(blend=0)).see(SHARES, 0)[0] == {MASK: 1.0}


def test_a_block_waits_until_its_predictions_hardly_change() -> None:
    decision = Decision(LatentRefinement(refine_threshold=0.1))
    seen = [SHARES, OTHER, OTHER, SHARES]
    assert [decision.see(s, step)[1] for step, s in enumerate(seen)] == [True, True, False, False]


def test_it_waits_so_many_evaluations_at_most() -> None:
    decision = Decision(LatentRefinement(refine_threshold=0.1, refine_steps=2))
    seen = [SHARES, OTHER, SHARES, OTHER]
    assert [decision.see(s, step)[1] for step, s in enumerate(seen)] == [True, True, False, False]
    assert not Decision(LatentRefinement(refine_steps=0)).see(SHARES, 0)[1]


def test_each_block_refines_anew() -> None:
    decision = Decision(LatentRefinement(refine_threshold=0.1))
    steps = [0, 1, 0, 1]
    assert [decision.see(SHARES, step)[1] for step in steps] == [True, False, True, False]


def test_commits_that_share_a_block_over_its_evaluations_are_refused_while_it_refines() -> None:
    commit = {"kind": "timesteps"}
    with pytest.raises(ConfigError, match=r"do not go together.* use `belief\.refine_steps`=0"):
        DecodingConfig(belief={"kind": "lrd"}, commit=commit)
    DecodingConfig(belief={"kind": "lrd", "refine_steps": 0}, commit=commit)
    DecodingConfig(belief={"kind": "lrd"}, commit={"kind": "quota"})


def test_drafts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"do not go together.* use `belief\.kind`='mask'"):
        DecodingConfig(belief={"kind": "lrd"}, verify={"kind": "self_speculation"})


def test_it_asks_for_the_first_tokens_and_the_entropy() -> None:
    assert LatentRefinement(top=8).needs == {"top8", "entropy"}
    assert [n for n, k in LatentRefinement.knobs().items() if k.structural] == ["top"]


@pytest.mark.parametrize(
    "fields",
    [
        {"blend": 1.5},
        {"nucleus": 0},
        {"refine_threshold": -1},
        {"refine_steps": -1},
        {"top": 257},
        {"refine_steps": 4097},
    ],
)
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        LatentRefinement(**fields)  # type: ignore[arg-type]
