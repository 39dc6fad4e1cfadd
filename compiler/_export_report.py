"""What torch.export says of a module that it refuses, in one line with the user's source line."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import sympy
from torch.utils._sympy.functions import Max, Min

from dllmc.compiler._source import place_of_caller, place_of_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.utils.hooks import RemovableHandle

_FROZEN = re.compile(r"marked (\w+) as dynamic .* specialized it to be a constant \((\d+)\)")
_PARTIAL = re.compile(r"Not all values of (\w+) = .* satisfy the generated guard (.+)")
_LIMIT = re.compile(r"length = Dim\('length', max=(\d+)\)")
_FROM_VALUES = {
    "Could not guard on data-dependent": (
        "the code branches on the values of a tensor{place}; compute both sides and choose with "
        "`torch.where`"
    ),
    "Could not extract specialized integer": (
        "the code makes a number of the values of a tensor{place}; keep it a tensor"
    ),
    ".numpy() is not supported": (
        "the code leaves torch by `.numpy()`{place}; write it with torch"
    ),
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what torch.export prints of a module that it refuses for the report of the error.

    It prints the graph so far, beside raising; where it raises nothing, all is printed.
    """
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, printed = logger.level, io.StringIO()
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except Exception as error:
        error.add_note(printed.getvalue())
        raise
    else:
        sys.stderr.write(printed.getvalue())
    finally:
        logger.setLevel(level)


class SizeWatch:
    """Remembers which of the user's lines made torch.export assume something of a size.

    The report of torch.export names the size alone. What holds for every size is no assumption.
    """

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._assumed: list[tuple[Any, str]] = []

    def attach(self, module: nn.Module) -> RemovableHandle:
        """Watch the next export of `module`."""
        return module.register_forward_pre_hook(self._begin)

    def place(self, name: str) -> str:
        """` at FILE:LINE` where the size `batch` or `length` was first taken for a number."""
        about = [
            (str(expression).startswith("Eq("), place)
            for expression, place in self._assumed
            if name in {self._names.get(symbol) for symbol in expression.free_symbols}
        ]
        exact = [place for is_exact, place in about if is_exact and place]
        return next(iter(exact or [place for _, place in about if place]), "")

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module
        tokens = inputs[0]
        fake_mode = getattr(tokens, "fake_mode", None)
        sizes = getattr(fake_mode, "shape_env", None)
        if sizes is None or not isinstance(getattr(sizes, "guards", None), list):
            return  # Another version of torch: the report then comes without a line.
        for size, name in zip(tokens.shape, ("batch", "length"), strict=True):
            if hasattr(size, "node"):
                self._names[size.node.expr] = name
        sizes.guards = _Noting(sizes.guards, self._assumed)


class _Noting(list[Any]):
    """A list of guards that notes whose line adds one, and takes none that says nothing."""

    def __init__(self, guards: list[Any], assumed: list[tuple[Any, str]]) -> None:
        super().__init__(guards)
        self._assumed = assumed

    def append(self, guard: Any) -> None:
        if holds_always(guard.expr):
            return
        super().append(guard)
        self._assumed.append((guard.expr, place_of_caller()))


def holds_always(guard: Any) -> bool:
    """Whether a guard is seen to be true for every size, where torch.export does not see it.

    Heads that are repeated and merged have the stride `Min(4*s, 8*s)`. Torch's own `Min`, made for
    speed, does not compare the two in torch 2.11, so `Min(4*s, 8*s) == 4*s` counts as a condition
    that some lengths do not meet, and the module is refused. Sympy's `Min` compares them.
    """
    return bool(guard.replace(Min, sympy.Min).replace(Max, sympy.Max) == sympy.true)


def reason(error: Exception, watch: SizeWatch) -> str:
    """One line: what `error` says, where, and what to do."""
    text = str(error).strip()
    if frozen := list(_FROZEN.finditer(text)):
        sizes = " and ".join(f"`{found[1]}` = {found[2]}" for found in frozen)
        return (
            f"a shape is frozen at the example's {sizes}{watch.place(frozen[-1][1])}; take sizes "
            "from the tokens' shape"
        )
    if partial := _PARTIAL.search(text):
        limit = _LIMIT.search(text)
        remedy = f", or give `max_length`={limit[1]}, up to which it is" if limit else ""
        return (
            f"the code takes another way for some values of `{partial[1]}`"
            f"{watch.place(partial[1])}; make it the same for every canvas up to the spec's "
            f"`max_length`{remedy}"
        )
    place = place_of_error(error)
    for sign, said in _FROM_VALUES.items():
        if sign in text:
            return said.format(place=place)
    first = (text.splitlines() or [type(error).__name__])[0]
    return first + place
