"""Which tuning record decides how to decode."""
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
from dllmc.policies.config import SAFE, DecodingConfig
if TYPE_CHECKING:
    from collections.abc import Sequence
    from dllmc.runtime.engine import Engine
@dataclass(frozen=True)
class Choice:
    config: DecodingConfig
    record: str | None
    match: str
    reasons: Sequence[str]
def choose_record(engine: Engine, *, task: str | None, batch: int, max_new_tokens: int) -> Choice:
    return Choice(SAFE, None, "SAFE", ("no record",))
