"""From statistics to decisions: pure tensor code without synchronisation, one for all policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.policies.progress import commit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.constrain._automaton import TokenAutomaton
    from dllmc.policies.rows import Rows

    Values = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Decisions:
    """What was decided, `[N, L]` bool where nothing else is said.

    Attributes:
        rows: Judged: with candidates, doubt and memory as they are after this evaluation.
        committed: Masks that become their candidate.
        replaced: Committed tokens that give way to their candidate.
        reopened: Committed tokens that are masked again.
        tokens: `[N, L]` int64, what stands there now.
        end: `[N]` int64, where the block ends, or None where the schedule does not choose.
        cut: `[N]` int64, where the response ends, or None where nothing cuts it.
    """

    rows: Rows
    committed: Tensor
    replaced: Tensor
    reopened: Tensor
    tokens: Tensor
    end: Tensor | None
    cut: Tensor | None


def decide(
    config: DecodingConfig,
    rows: Rows,
    values: Values,
    eos_ids: Tensor,
    automaton: TokenAutomaton | None = None,
) -> Decisions:
    """Apply the policies of `config`, which all decisions share, to what was evaluated.

    Args:
        config: Only its structure counts.
        rows: As the evaluation left them, without doubt.
        values: Knobs by axis and name, `[N]`.
        eos_ids: End-of-sequence tokens.
        automaton: Of the constraint, if there is one.
    """
    rows = rows.having(total=rows.logits + rows.tail.log1p())
    if automaton is not None:
        rows = config.constrain.candidates(rows, values["constrain"], automaton)
    rows = config.score.judge(rows, values["score"])
    end = None
    if config.schedule.adapts:
        end = config.schedule.end(rows, values["schedule"])
        rows = rows.having(eligible=rows.eligible & (rows.positions < end[:, None]))
    rows = rows.having(eligible=rows.eligible & _allowed(rows))
    rows, held = config.belief.observe(rows, values["belief"])
    rows, filled = config.stop.fills(rows, values["stop"])
    committed = commit_rows(config.commit, rows, values["commit"])
    if filled is not None:
        committed = committed | (rows.eligible & filled[:, None])
    if held is not None:
        committed = committed & ~held[:, None]
    committed = config.verify.accept(rows, committed, values["verify"])
    rows, revision = config.revise.select(rows, committed, values["revise"])
    rows = config.verify.draft(rows)
    changed = committed | revision.replaced
    tokens = torch.where(changed, rows.ids, rows.tokens)
    tokens = torch.where(revision.reopened, rows.mask_id, tokens)
    cut = config.stop.cut(rows, committed, eos_ids, values["stop"])
    return Decisions(rows, committed, revision.replaced, revision.reopened, tokens, end, cut)


def _allowed(rows: Rows) -> Tensor:
    """Where one row alone may commit it is the first that was offered."""
    first = torch.arange(rows.eligible.shape[1], device=rows.eligible.device) == 0
    return first | ~rows.single[:, None]
