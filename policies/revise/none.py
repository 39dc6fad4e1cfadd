"""Committed tokens stay."""

from __future__ import annotations

from typing import Literal

from dllmc.policies.axes import Revise


class NoRevision(Revise):
    """A commit is for good."""

    kind: Literal["none"] = "none"
