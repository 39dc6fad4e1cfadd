"""Prefix cache (Fast-dLLM, arXiv 2505.22618): remember what stands before the block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Cache
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec

RefreshCommits = Literal["auto", "policy", "first"]


def refuse_first(refresh_commits: RefreshCommits, spec: DenoiserSpec) -> None:
    if refresh_commits == "first" and not spec.logit_shift:
        raise ConfigError(
            "`cache.refresh_commits`='first' is the rule of models with shifted logits, which "
            "this one has not; use 'auto' or 'policy'"
        )


class PrefixCache(Cache):
    """Full evaluation at a block's start; then from the block's start to the end of the canvas.

    Attributes:
        refresh_every: Refresh also when so many tokens were committed since the last refresh.
        refresh_commits: What a refresh at a block's start commits: by the `policy`, or the
            block's `first` token only; `auto` takes `first` where logits are shifted.
    """

    kind: Literal["prefix"] = "prefix"
    refresh_every: int | None = knob(None, gt=0, choices=(None, 2, 4, 8, 16), lossy=True)
    refresh_commits: RefreshCommits = "auto"

    def window(self, block: tuple[int, int], length: int) -> tuple[int, int]:
        return block[0], length

    def oracle(self, position: int, block: tuple[int, int], length: int) -> bool:
        del length
        return position >= block[0]

    def check(self, spec: DenoiserSpec) -> None:
        refuse_first(self.refresh_commits, spec)
