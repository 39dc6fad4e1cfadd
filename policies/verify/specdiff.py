"""Speculative Diffusion Decoding (SpecDiff, arXiv 2408.05636): the denoiser drafts, a causal model
verifies, and the output is the causal model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies.axes import Verify

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec

_GOES_ON = "the next block begins where the verified tokens end, wherever that is"


class SpecDiff(Verify):
    """Every block that is finished is verified: lossless with respect to the auxiliary model.

    Its longest prefix of tokens that the auxiliary model would have taken stays, one more token
    is the auxiliary model's, and the rest is masked again; the next block begins there.
    """

    auxiliary: ClassVar[Literal["step", "block"] | None] = "block"
    excludes: ClassVar[Mapping[str, str]] = {
        "temperature": "only greedy verification is built; use `temperature`=0",
        "schedule.adablock": _GOES_ON,
        "schedule.whole": "only what is drafted in blocks can be verified block by block",
        "pipelined": _GOES_ON,
        "slides": _GOES_ON,
        "counts_blocks": _GOES_ON,
        "stop.eot": "only the auxiliary model says where the response ends",
        "revise.edit": "what was verified stays",
        "revise.remask": "what was verified stays",
    }
    kind: Literal["specdiff"] = "specdiff"

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # Its output is another model's.
        del spec
        return False
