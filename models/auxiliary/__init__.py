"""The small causal model that comes with dllmc, and how it was trained and measured."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
