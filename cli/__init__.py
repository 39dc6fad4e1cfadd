"""The `dllmc` command; what is heavy is imported when a command runs."""

from __future__ import annotations

from dllmc.cli._app import app, main

__all__ = ["app", "main"]
