"""The progress guarantee of every commit policy, written once, and the order of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Commit
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


def commit_rows(policy: Commit, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
    """What `policy` selects, and the surest eligible row in any case, `[N, L]` bool.

    A decision with anything eligible commits at least one row, unless the policy or the decision
    may wait. A row that was offered alone commits. Ties go to the lowest position.

    Args:
        policy: Of all decisions; its structural fields are the same for all.
        rows: With their doubt.
        values: The policy's knobs by name, `[N]`.
    """
    surest = _eligible_first(rows).argmin(dim=-1, keepdim=True)
    at_least = torch.zeros_like(rows.eligible).scatter(-1, surest, True)
    owed = rows.single if policy.may_wait else rows.single | ~rows.waits
    return (policy.select(rows, values) | (at_least & owed[:, None])) & rows.eligible


def commit_oracle(
    policy: Commit,
    rows: Sequence[Prediction],
    progress: BlockProgress,
    *,
    single: bool = False,
    waits: bool = False,
) -> set[int]:
    """The same for one decision, over its eligible rows only, as indices."""
    if not rows:
        return set()
    chosen = policy.oracle(rows, progress)
    if (policy.may_wait or waits) and not single:
        return chosen
    return chosen | {surest_first(rows)[0]}


def surest_first(rows: Sequence[Prediction]) -> list[int]:
    """Indices of `rows` by doubt, or by the order that they have; ties go to the lowest."""
    keys = [row.doubt if row.order is None else row.order for row in rows]
    return sorted(range(len(rows)), key=lambda index: (keys[index], index))


def rank(rows: Rows) -> Tensor:
    """Place of each row, `[N, L]` int64, surest first; ineligible rows come last."""
    return ordered(rows).argsort(dim=-1)


def ordered(rows: Rows) -> Tensor:
    """The row at each place, `[N, L]` int64: the inverse of `rank`."""
    return _eligible_first(rows).argsort(dim=-1, stable=True)


def _eligible_first(rows: Rows) -> Tensor:
    """What to order by: an eligible row may have infinite doubt and yet comes first."""
    keys = rows.doubt if rows.order is None else rows.order
    finite = keys.clamp(max=torch.finfo(keys.dtype).max)
    return torch.where(rows.eligible, finite, torch.inf)
