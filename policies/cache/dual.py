"""Dual cache (Fast-dLLM, arXiv 2505.22618): remember what stands before and after the block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Cache
from dllmc.policies.cache.prefix import RefreshCommits, refuse_first

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec


class DualCache(Cache):
    """Full evaluation at a block's start; then the block alone.

    Keys after the block stay those of the last refresh.

    Attributes:
        refresh_every: Refresh also when so many tokens were committed since the last refresh.
        refresh_commits: What a refresh at a block's start commits: by the `policy`, or the
            block's `first` token only; `auto` takes `first` where logits are shifted.
        window_first: With shifted logits, a window's first row predicts itself (`self`, as
            published) or gets the logit of the row before (`carried`).
    """

    kind: Literal["dual"] = "dual"
    refresh_every: int | None = knob(None, gt=0, choices=(None, 2, 4, 8, 16), lossy=True)
    refresh_commits: RefreshCommits = "auto"
    window_first: Literal["self", "carried"] = "self"

    def window(self, block: tuple[int, int], length: int) -> tuple[int, int]:
        del length
        return block

    def oracle(self, position: int, block: tuple[int, int], length: int) -> bool:
        del length
        return block[0] <= position < block[1]

    def check(self, spec: DenoiserSpec) -> None:
        refuse_first(self.refresh_commits, spec)
