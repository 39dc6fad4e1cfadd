"""How much memory and compiling a configuration may take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from dllmc.autotune.budget import parse_budget
from dllmc.runtime.need import Need
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dllmc.autotune.evaluator import Batch, Evaluator
    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine

_UNITS: Final = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6} | {
    "gb": 10**9
}
_FORM: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a configuration may take; None is any amount.

    Attributes:
        memory: Bytes.
        compiling: Seconds in which the programs that it needs were compiled.
    """

    memory: int | None = None
    compiling: float | None = None

    def identity(self) -> dict[str, Any]:
        """What tells jobs apart, as JSON."""
        both = {"max_memory": self.memory, "max_compile": self.compiling}
        return {name: value for name, value in both.items() if value is not None}

    def words(self) -> list[str]:
        """As options of the command line."""
        found = [] if self.memory is None else [f"--max-memory {self.memory}"]
        return found + ([] if self.compiling is None else [f"--max-compile {self.compiling:g}"])


def read_limits(memory: str | int | None, compiling: str | float | None) -> Limits:
    """Limits as a user gives them: `2GiB`, `60s`, or numbers of bytes and seconds.

    Raises:
        TuningError: One is not an amount.
    """
    try:
        seconds = parse_budget(compiling)
    except TuningError:
        raise TuningError(
            f"`max_compile`={compiling!r} is not a positive time; write seconds, or 90s or 5m"
        ) from None
    return Limits(None if memory is None else _bytes(memory), seconds)


def _bytes(value: str | int) -> int:
    match = _FORM.fullmatch(str(value).strip().lower())
    factor = _UNITS.get(match[2]) if match else None
    if match is None or factor is None or float(match[1]) <= 0:
        raise TuningError(
            f"`max_memory`={value!r} is not an amount of memory; write bytes, or 512MiB or 2GiB"
        )
    return int(float(match[1]) * factor)


def memory_of(engine: Engine, config: DecodingConfig, batch: Batch, length: int) -> int:
    """Bytes that decoding `batch` takes: the most that the device has held at once.

    On a CPU, which does not count, weights and what a decode holds between steps.

    Args:
        engine: What decodes.
        config: How.
        batch: The prompts.
        length: Of the response, in tokens.
    """
    prompts = [engine.encode(sample.prompt) for sample in batch.samples]
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
        engine.generate(prompts, config=config, max_new_tokens=length, batch=len(prompts))
        return torch.cuda.max_memory_allocated(engine.device)
    pool, _ = engine.open(prompts, config, length)
    held = [pool.canvas, *pool.caches.values(), *pool.kept.values(), *pool.memory.values()]
    return _size(held) + _size(_weights(engine))


def _weights(engine: Engine) -> Iterator[torch.Tensor]:
    for graph in engine.package.graphs.values():
        yield from graph.parameters()
        yield from graph.buffers()


def _size(tensors: Sequence[torch.Tensor] | Iterator[torch.Tensor]) -> int:
    """Bytes, of what is shared once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def compile_seconds(evaluator: Evaluator, config: DecodingConfig) -> float:
    """Seconds in which this process compiled the programs that `config` is known to need."""
    batch = evaluator.key.workload.batch
    programs = evaluator.engine.programs
    plans = {
        need.plan.model_copy(update={"batch": batch * need.plan.batch})
        for need in map(Need.from_key, evaluator.evidence(config).plans)
    }
    return programs.compile_seconds(plans)
