"""What one evaluation did to a sequence."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dllmc.runtime.need import Need


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """What one evaluation did to a sequence.

    Attributes:
        plan: Key of the plan that ran.
        need: What the sequence took of it.
        committed: Tokens by position, of masks that were committed.
        replaced: Tokens by position, of tokens that were replaced.
        reopened: Positions that were masked again.
        finished: Whether the stop policy found the response finished.
        end: Where the block ends, if its schedule chose now.
        cut: Where the response ends, if the stop policy said so now.
        steps: Steps of decoding that it stands for: several where drafts were accepted.
    """

    plan: str
    need: Need
    committed: Mapping[int, int]
    replaced: Mapping[int, int] = dataclasses.field(default_factory=dict)
    reopened: Collection[int] = ()
    finished: bool = False
    end: int | None = None
    cut: int | None = None
    steps: int = 1
