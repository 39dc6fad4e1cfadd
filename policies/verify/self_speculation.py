"""Self-speculation: several steps in one evaluation, the same tokens as one by one.

SSD (arXiv 2510.04147) and FreeDave (arXiv 2510.00294). What the last evaluation would commit
next, surest first, is filled in: one canvas per prefix of these drafts. A canvas counts if the
decision on an earlier one that counts leads to it. A draft filled in beside others in one canvas
would be seen by rows that stepwise decoding decides before it; hence a canvas per prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Verify
from dllmc.policies.rows import Remembered

if TYPE_CHECKING:
    from dllmc.policies.rows import Rows
    from dllmc.spec import DenoiserSpec

_EACH = "what it remembers changes with every evaluation, and drafts skip some"


class SelfSpeculation(Verify):
    """Lossless: only the number of evaluations changes.

    Attributes:
        branches: Canvases in one evaluation at most.
        form: Canvases as further sequences of the `batch`, each with a copy of the cache; or as a
            `tree` in one row, in cache slots of their own.
    """

    kind: Literal["self_speculation"] = "self_speculation"
    traits: ClassVar[frozenset[str]] = frozenset({"drafts"})
    excludes: ClassVar[Mapping[str, str]] = {
        "temperature": "noise is drawn step by step, and drafts are verified in fewer evaluations",
        "score.credit": _EACH,
        "score.random": "it is drawn anew in every step, which no draft foresees",
        "stop.kl": _EACH,
        "stop.eot": "it ends the response at the first of several steps, and drafts go on",
        "revise.edit": "drafts hold only if what was committed before them stays",
        "counts_steps": "how much commits depends on the number of steps, which drafts skip",
        "history": "drafts are verified on keys that the steps between them would have changed",
        "pipelined": "drafts are of one block, and this schedule decodes several",
    }
    branches: int = knob(4, gt=0, le=64, low=2, high=8, lossy=False, structural=True)
    form: Literal["batch", "tree"] = knob(
        "batch", choices=("batch", "tree"), lossy=False, structural=True
    )

    @property
    def lanes(self) -> int:
        return self.branches

    @property
    def tree(self) -> bool:
        return self.form == "tree"

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        return {
            "verify.ids": Remembered((), "int64", spec.mask_id),
            "verify.doubt": Remembered((), "float32", float("inf")),
        }

    def draft(self, rows: Rows) -> Rows:
        order = rows.doubt if rows.order is None else rows.order
        return rows.remembering(verify__ids=rows.ids, verify__doubt=order.float())
