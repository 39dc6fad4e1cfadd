"""A window that slides from left to right (the schedule of APD, arXiv 2506.00413)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Schedule
from dllmc.spec import ConfigError, DenoiserSpec

_SLIDES = "the window moves with every commit, and this counts the evaluations of one block"


class Lookahead(Schedule):
    """The first masked position and what follows it; nothing beyond is on the canvas yet.

    Attributes:
        length: Positions of the window.
    """

    slides: ClassVar[bool] = True
    traits: ClassVar[frozenset[str]] = frozenset({"slides"})
    excludes: ClassVar[Mapping[str, str]] = {
        "plans_block": _SLIDES,
        "belief.lrd": _SLIDES,
        "cache.dkv": _SLIDES,
        "revise.edit": _SLIDES,
        "revise.remask": _SLIDES,
        "score.learned_filter": _SLIDES,
        "filters": _SLIDES,
        "drafts": "drafts are of one block, and this window moves with every commit",
        "carries": _SLIDES,
    }
    kind: Literal["lookahead"] = "lookahead"
    length: int = knob(32, gt=0, low=8, high=128, scale="log", lossy=True)

    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        return [(0, min(self.length, response_length))]

    def check_model(self, spec: DenoiserSpec) -> None:
        if spec.attention != "full":
            raise ConfigError(
                "`schedule.kind`='lookahead' is for full attention and this model's is "
                f"{spec.attention!r}; use 'blocks' or 'pipeline'"
            )
