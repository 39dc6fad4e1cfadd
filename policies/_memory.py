"""What oracles remember."""

from __future__ import annotations

from typing import Any

Memory = dict[str, Any]
"""What the oracles of one sequence remember: a plain dictionary of their own making."""
