"""How long a job may take, and how the time is shared."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Final, Literal, cast

from dllmc.spec import TuningError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([smhd]?)", re.ASCII)


def parse_budget(value: str | float | None) -> float | None:
    """Seconds of a budget: a number of seconds, or a text such as `90s`, `10m` or `1.5h`.

    Raises:
        TuningError: It is neither, or not positive.
    """
    if value is None:
        return None
    if isinstance(value, str):
        match = _FORM.fullmatch(value.strip().lower())
        seconds = float(match[1]) * _UNITS[match[2]] if match else math.nan
    else:
        seconds = float(value)
    if not (0 < seconds < math.inf):
        raise TuningError(
            f"`budget`={value!r} is not a positive time; write seconds, or a text such as 90s, "
            "10m or 1.5h"
        )
    return seconds


Effort = Literal["quick", "standard", "thorough"]
EFFORTS: Final[Mapping[Effort, tuple[str, int]]] = {
    "quick": ("2m", 20),
    "standard": ("10m", 60),
    "thorough": ("1h", 300),
}
"""Time and trials, whichever ends first. `quick` and `standard` differ in more than time: a job of
less than ten minutes leaves out what needs other programs than the baseline's."""

FROM_EFFORT: Final = "effort"
"""A budget that is the effort's, or ten minutes without one."""


def with_effort(
    effort: str | None, budget: str | float | None, trials: int | None
) -> tuple[str | float | None, int | None]:
    """Budget and trials; what is given goes before what the effort says.

    Raises:
        TuningError: There is no such effort.
    """
    if effort is None:
        return ("10m" if budget == FROM_EFFORT else budget), trials
    if effort not in EFFORTS:
        raise TuningError(f"`effort`={effort!r} is unknown; {nearest(effort, EFFORTS)}")
    usual, most = EFFORTS[cast("Effort", effort)]
    return (usual if budget == FROM_EFFORT else budget), most if trials is None else trials


class BudgetSpentError(Exception):
    """The share of time of a part of the job is used up; never leaves this room."""


class Budget:
    """The clock of a job, which goes on where an earlier run of it stopped.

    While the clock is set back no time passes: an hour back does not make the job an hour longer.

    Args:
        total: Seconds, or None for as long as it takes.
        spent: Seconds used by earlier runs.
        clock: Seconds from any start.
    """

    def __init__(
        self,
        total: float | None,
        spent: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total = total
        self.clock = clock
        self._spent, self._last = spent, clock()

    @property
    def spent(self) -> float:
        """Seconds used, those of earlier runs included."""
        now = self.clock()
        self._spent += max(0.0, now - self._last)
        self._last = now
        return self._spent

    def left(self, until: float = 1.0) -> float:
        """Seconds left of the first `until` of the budget; negative where it is overspent."""
        return math.inf if self.total is None else until * self.total - self.spent

    def require(self, until: float = 1.0) -> None:
        """Go on only if time is left.

        Raises:
            BudgetSpentError: There is none.
        """
        if self.left(until) <= 0:
            raise BudgetSpentError
