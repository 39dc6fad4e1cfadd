"""How much a prediction has changed since the evaluation before, by its most probable tokens.

The Kullback-Leibler divergence KL(before || now) of a coarser distribution, which never exceeds
the whole one's: tokens that both evaluations have among their first, and all others as one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows

# Of log-probabilities: exp(80) is a tail mass that float32 holds, exp(89) is infinite.
_LOWEST = -80.0
# Of the mass of other tokens: one minus a sum is wrong by 1e-7 in float32.
_REST = 1e-6


class Tops(NamedTuple):
    """The most probable tokens but the mask, `[N, L, k]` each; where there is none, -infinity."""

    ids: Tensor
    logps: Tensor


def tops(rows: Rows, count: int) -> Tops:
    """The first `count` tokens of each row, which the statistic `top` holds."""
    total = rows.logits + rows.tail.log1p() if rows.total is None else rows.total
    ids, logits = (rows.extra[name][..., :count] for name in ("top_ids", "top_logits"))
    logps = (logits - total[..., None]).clamp(min=_LOWEST)
    return Tops(ids, torch.where(ids == rows.mask_id, -torch.inf, logps))


def mean_divergence(of: Tensor, before: Tops, now: Tops) -> Tensor:
    """Mean of the divergence over rows `of` that were seen before, `[N]`; infinite over none.

    Args:
        of: `[N, L]` bool.
        before: As remembered.
        now: Of this evaluation.
    """
    counted = of & (before.logps[..., 0] > -torch.inf)
    total = torch.where(counted, _divergence(before, now), 0).sum(-1)
    return torch.where(counted.any(-1), total / counted.sum(-1), torch.inf)


def _divergence(before: Tops, now: Tops) -> Tensor:
    same = before.ids[..., :, None] == now.ids[..., None, :]
    shared = same.any(-1) & (before.logps > -torch.inf)
    later = torch.where(same, now.logps[..., None, :], -torch.inf).amax(-1)
    mass = torch.where(shared, before.logps.exp(), 0)
    rest = (1 - mass.sum(-1)).clamp(min=_REST)
    rest_later = (1 - torch.where(shared, later.exp(), 0).sum(-1)).clamp(min=_REST)
    terms = torch.where(shared, mass * (before.logps - later), 0)
    return terms.sum(-1) + rest * (rest / rest_later).log()


def tops_of(row: Prediction, count: int) -> dict[int, float]:
    """Log-probabilities of the first `count` tokens of a row, most probable first."""
    largest = row.logits.max()
    total = float(largest + np.log(np.exp(row.logits - largest).sum()))
    order = [int(v) for v in np.argsort(-row.logits, kind="stable") if v != row.mask_id]
    return {token: max(float(row.logits[token]) - total, _LOWEST) for token in order[:count]}


def mean_divergence_of(
    positions: Iterable[int],
    before: Mapping[int, Mapping[int, float]],
    now: Mapping[int, Mapping[int, float]],
) -> float:
    """The same for one decision: tokens by position as `tops_of` gives them."""
    found = [_divergence_of(before[p], now[p]) for p in positions if p in before]
    return sum(found) / len(found) if found else math.inf


def _divergence_of(before: Mapping[int, float], now: Mapping[int, float]) -> float:
    shared = before.keys() & now.keys()
    rest = max(1 - sum(math.exp(before[v]) for v in shared), _REST)
    rest_later = max(1 - sum(math.exp(now[v]) for v in shared), _REST)
    terms = sum(math.exp(before[v]) * (before[v] - now[v]) for v in shared)
    return terms + rest * math.log(rest / rest_later)
