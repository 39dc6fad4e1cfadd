from __future__ import annotations

import math

import pytest
import torch
from rows.made import MASK, matching

from dllmc.policies._divergence import Tops, mean_divergence, mean_divergence_of, tops, tops_of

# Five tokens, the last of them the mask.
EARLIER = [0.5, 0.25, 0.125, 0.0625, 0.0625]
LATER = [0.25, 0.5, 0.125, 0.0625, 0.0625]


def both(before: list[list[float]], now: list[list[float]], count: int) -> float:
    """The mean divergence over all rows, by both sides."""
    one, other = (
        matching(torch.tensor([rows]).double().log(), needs={f"top{count}"})
        for rows in (before, now)
    )
    held, fresh = tops(one.rows, count), tops(other.rows, count)
    found = mean_divergence(one.rows.masked, held, fresh).item()
    told = [{p.position: tops_of(p, count) for p in e.predictions[0]} for e in (one, other)]
    assert mean_divergence_of(told[0], *told) == pytest.approx(found, abs=1e-12)
    return found


def test_tokens_come_by_probability_without_the_mask() -> None:
    evaluated = matching(torch.tensor([[EARLIER]]).double().log(), needs={"top8"})
    held = tops(evaluated.rows, 8)
    assert held.ids[0, 0].tolist() == [0, 1, 2, 3, *[MASK] * 4]
    assert held.logps[0, 0].exp().tolist() == pytest.approx([0.5, 0.25, 0.125, 0.0625, *[0.0] * 4])
    told = tops_of(evaluated.predictions[0][0], 8)
    assert list(told) == [0, 1, 2, 3]
    assert [math.exp(p) for p in told.values()] == pytest.approx(EARLIER[:4])


def test_it_is_that_of_all_tokens_where_all_are_compared() -> None:
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert both([EARLIER], [LATER], 4) == pytest.approx(expected)
    assert both([EARLIER], [EARLIER], 4) == pytest.approx(0, abs=1e-12)


def test_tokens_that_both_have_count_alone_and_the_others_together() -> None:
    now = [0.125, 0.25, 0.5, 0.0625, 0.0625]
    # Of 0 and 1, and of 2 and 1, only 1 is among the first of both.
    expected = 0.75 * math.log(0.75 / 0.75) + 0.25 * math.log(0.25 / 0.25)
    assert both([EARLIER], [now], 2) == pytest.approx(expected, abs=1e-12)
    now = [0.0625, 0.125, 0.75, 0.03125, 0.03125]
    expected = 0.75 * math.log(0.75 / 0.875) + 0.25 * math.log(0.25 / 0.125)
    assert both([EARLIER], [now], 2) == pytest.approx(expected)


def test_it_is_the_mean_over_rows() -> None:
    alone = both([EARLIER], [LATER], 4)
    assert both([EARLIER, EARLIER], [LATER, EARLIER], 4) == pytest.approx(alone / 2)


def test_rows_that_were_not_seen_before_do_not_count() -> None:
    rows = matching(torch.tensor([[EARLIER, LATER]]).double().log(), needs={"top4"}).rows
    now = tops(rows, 4)
    unseen = torch.tensor([[[0.0], [-math.inf]]])
    before = Tops(now.ids.roll(1, 1), torch.where(unseen == 0, now.logps.roll(1, 1), unseen))
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert mean_divergence(rows.masked, before, now).item() == pytest.approx(expected)
    none = Tops(now.ids, torch.full_like(now.logps, -math.inf))
    assert mean_divergence(rows.masked, none, now).item() == math.inf
    assert mean_divergence_of([3], {}, {3: {0: 0.0}}) == math.inf


def test_a_mass_that_overflows_stays_finite() -> None:
    flat = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 1000.0]]])
    evaluated = matching(flat.double(), needs={"top4"}, dtype=torch.float32)
    held = tops(evaluated.rows, 4)
    assert held.logps[0, 0].tolist() == [-80.0] * 4
    assert set(tops_of(evaluated.predictions[0][0], 4).values()) == {-80.0}
    assert mean_divergence(evaluated.rows.masked, held, held).item() == 0
