"""`python -m dllmc.cli` is `dllmc`."""

from __future__ import annotations

from dllmc.cli import main

main()
