"""What hardware a measurement belongs to."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class HardwareKey(BaseModel):
    """The facts of a machine on which the speed of a step depends.

    Attributes:
        kind: `cpu` or `cuda`.
        name: Processor or device name as the system reports it.
        architecture: `sm_90` and the like, or the vector instruction set of a CPU.
        units: Threads in use on a CPU, multiprocessors of a GPU.
        memory_gib: Device memory, rounded; 0 on a CPU, where it does not decide speed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cpu", "cuda"]
    name: str
    architecture: str
    units: int
    memory_gib: int = 0

    def fallbacks(self) -> tuple[tuple[str, ...], ...]:
        """Keys under which to look for a record, from the narrowest to the widest."""
        return (
            (self.kind, self.architecture, self.name, str(self.units)),
            (self.kind, self.architecture, self.name),
            (self.kind, self.architecture),
        )

    @property
    def id(self) -> str:
        """One line, for people and for file names."""
        words = "-".join(f"{self.name}-{self.units}".lower().split())
        safe = "".join(c for c in words if c.isalnum() or c in "-_.")
        return f"{self.kind}-{self.architecture}-{safe}"
