"""A trained layer that samples several tokens jointly (ADJUST, arXiv 2509.22738).

After every evaluation of the denoiser a single transformer layer is run on top of its last hidden
states, again and again, each time told which tokens were committed since; each of these passes
decides like an evaluation. The layer's file is safetensors: `_joint_layer.py` says what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Verify
from dllmc.policies.rows import Remembered
from dllmc.policies.verify._joint_layer import load_layer

if TYPE_CHECKING:
    from dllmc.policies.rows import Rows
    from dllmc.spec import DenoiserSpec

_BLOCK = "a pass is about the rows of one block, which stays where it is"
_REVISES = "passes are told what was committed since the evaluation, and this takes some back"


class JointSampler(Verify):
    """Passes of a layer between evaluations; each commits as the commit policy says.

    In the paper every pass commits one token: `commit.kind`='quota' with as many steps as tokens.

    Attributes:
        path: Of the layer's file.
        tokens: Decisions made from one evaluation, its own included: the paper's K.
    """

    excludes: ClassVar[Mapping[str, str]] = {
        "pipelined": _BLOCK,
        "schedule.lookahead": _BLOCK,
        "revise.edit": _REVISES,
        "revise.remask": _REVISES,
    }
    kind: Literal["joint_sampler"] = "joint_sampler"
    path: str
    tokens: int = knob(4, gt=0, le=64, low=1, high=8, lossy=True, structural=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"hidden"})

    @property
    def passes(self) -> int:
        return self.tokens - 1

    def check_model(self, spec: DenoiserSpec) -> None:
        del spec
        load_layer(self.path)

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        del spec
        return {"verify.hidden": Remembered((load_layer(self.path).width,), "float32", 0.0)}

    def draft(self, rows: Rows) -> Rows:
        if "hidden" not in rows.extra:
            return rows
        return rows.remembering(verify__hidden=rows.extra["hidden"].float())
