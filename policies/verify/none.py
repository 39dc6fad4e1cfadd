"""Tokens commit without verification."""

from __future__ import annotations

from typing import Literal

from dllmc.policies.axes import Verify


class NoVerify(Verify):
    """What the commit policy selects is final."""

    kind: Literal["none"] = "none"
