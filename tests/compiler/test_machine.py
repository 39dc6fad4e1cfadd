from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.compiler import machine

if TYPE_CHECKING:
    import pytest


def test_a_machine_is_as_fast_as_its_best_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_READ", 1 << 10)
    monkeypatch.setattr(machine, "_SIDE", 16)
    # Of reading first, then of both products.
    seconds = iter([0.5, 0.25, 0.125])
    monkeypatch.setattr(machine, "_best", lambda _: next(seconds))
    found = machine.measure(torch.float32, torch.device("cpu"))
    assert found.rate == 2 * 16**3 / 0.25
    assert found.bandwidth == 4 * (1 << 10) / 0.125
    assert str(found) == "0.0 GB/s and 0 GFLOP/s"
