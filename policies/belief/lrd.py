"""Latent refinement (LRD, arXiv 2510.11052): undecided rows are fed what they lean to.

The paper has no published code. Its mixing weight grows with certainty (equation 4).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies._divergence import Tops, mean_divergence, mean_divergence_of, tops, tops_of
from dllmc.policies._entropy import entropy_of
from dllmc.policies.belief._mixing import Mixing, mixing
from dllmc.policies.rows import Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class LatentRefinement(Mixing):
    """Embeddings of masks lean to their probable tokens, and a block begins without commits.

    A row of entropy H is fed (1 - a) of the mask and a of its nucleus, where a is
    `blend` (1 - H / log V). Nothing of a block commits until its predictions hardly change.

    Attributes:
        blend: Largest share of the tokens; the paper finds more than 0.4 unstable.
        nucleus: Probability that the mixed tokens reach together, if `top` tokens do.
        refine_threshold: Mean divergence between two evaluations under which a block decodes.
        refine_steps: Evaluations without commits at most, in each block.
    """

    kind: Literal["lrd"] = "lrd"
    blend: float = knob(0.15, ge=0, le=1, low=0.02, high=0.4, lossy=True)
    nucleus: float = knob(0.9, gt=0, le=1, low=0.1, high=0.95, lossy=True)
    refine_threshold: float = knob(0.1, ge=0, low=1e-3, high=0.5, scale="log", lossy=True)
    refine_steps: int = knob(20, ge=0, le=4096, low=0, high=20, lossy=True)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"entropy"}

    @property
    def exclusions(self) -> Mapping[str, str]:
        planned = (
            "refining takes evaluations that commit nothing, and the commit policy counts them; "
            "use `belief.refine_steps`=0"
        )
        return {**self.excludes, **({"plans_block": planned} if self.refine_steps else {})}

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        return super().remembers(spec) | {
            "belief.logps": Remembered((self.top,), "float32", -math.inf),
            "belief.refining": Remembered((), "bool", 1, "sequence"),
        }

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {
            "blend": self.blend,
            "nucleus": self.nucleus,
            "threshold": self.refine_threshold,
            "first": progress.step == 0,
            "may_refine": progress.step < self.refine_steps,
        }

    def observe(self, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Rows, Tensor | None]:
        now, memory = tops(rows, self.top), rows.memory
        before = Tops(memory["belief.ids"][..., 1:], memory["belief.logps"])
        first, may_refine = values["first"] > 0, values["may_refine"] > 0
        settled = mean_divergence(rows.masked, before, now) < values["threshold"]
        held = (first | (memory["belief.refining"] & ~settled)) & may_refine
        blend = self._blend(rows, values["blend"])
        shares = _nucleus(now.logps.exp(), values["nucleus"])
        rows = mixing(rows, 1 - blend, now.ids, blend[..., None] * shares)
        logps = torch.where(rows.masked[..., None], now.logps.to(before.logps.dtype), before.logps)
        return rows.remembering(belief__logps=logps, belief__refining=held), held

    def _blend(self, rows: Rows, most: Tensor) -> Tensor:
        uncertainty = rows.extra["entropy"] / math.log(rows.vocab_size)
        return most[:, None] * (1 - uncertainty).clamp(min=0)

    def mixtures(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> tuple[dict[int, dict[int, float]], bool]:
        masked = [row for row in rows if row.masked]
        now = {row.position: tops_of(row, self.top) for row in masked}
        before = memory.setdefault("tops", {})
        change = mean_divergence_of(now, before, now)
        refining = progress.step == 0 or (memory["refining"] and change >= self.refine_threshold)
        memory["refining"] = refining and progress.step < self.refine_steps
        before.update(now)
        return {r.position: self._mixture(r, now[r.position]) for r in masked}, memory["refining"]

    def _mixture(self, row: Prediction, logps: Mapping[int, float]) -> dict[int, float]:
        uncertainty = entropy_of(row) / math.log(len(row.logits))
        blend = self.blend * max(1 - uncertainty, 0)
        mixed, reached = {}, 0.0
        for token, logp in logps.items():
            if reached < self.nucleus:
                mixed[token] = math.exp(logp)
            reached += math.exp(logp)
        whole = sum(mixed.values())
        return {row.token: 1 - blend} | {v: blend * p / whole for v, p in mixed.items()}


def _nucleus(shares: Tensor, reach: Tensor) -> Tensor:
    """`[N, L, k]`, descending, cut where they reach so much together, of sum 1."""
    reached = shares.cumsum(-1) - shares
    kept = torch.where(reached < reach[:, None, None], shares, 0)
    return kept / kept.sum(-1, keepdim=True)
