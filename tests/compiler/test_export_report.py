from __future__ import annotations

import functools
from typing import Any

import pytest
import sympy
from torch.utils._sympy import functions

from dllmc.compiler._export_report import holds_always

# As torch 2.11 writes them: later versions compare some of these themselves.
Min = functools.partial(functions.Min, evaluate=False)
Max = functools.partial(functions.Max, evaluate=False)
S, T = sympy.symbols("s t", positive=True, integer=True)
U = sympy.Symbol("u", integer=True)


@pytest.mark.parametrize(
    ("guard", "always"),
    [
        (sympy.Eq(Min(4 * S, 8 * S), 4 * S), True),
        (sympy.Ne(Min(4 * S, 8 * S), 8 * S), True),
        (sympy.Eq(Max(4 * S, 8 * S), 8 * S), True),
        (sympy.Eq(T * Min(S, 3 * S), T * S), True),
        (sympy.Eq(Min(4 * S, 8 * S), 8 * S), False),
        (sympy.Eq(Min(4 * S, 28), 4 * S), False),
        (sympy.Eq(Min(4 * S, 8 * T), 4 * S), False),
        # Of what may be negative.
        (sympy.Eq(Min(4 * U, 8 * U), 4 * U), False),
        (S < 20, False),
    ],
    ids=str,
)
def test_what_holds_for_every_size(guard: Any, always: bool) -> None:
    assert holds_always(guard) == always
