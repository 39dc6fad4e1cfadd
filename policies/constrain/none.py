"""Output is free."""

from __future__ import annotations

from typing import Literal

from dllmc.policies.axes import Constrain


class NoConstraint(Constrain):
    """Any token may be committed but the mask."""

    kind: Literal["none"] = "none"
