"""Strides as captured CUDA graphs: one launch for all kernels of several steps.

A graph holds evaluations, decisions and stop tests alike, on buffers of its own for what the host
lays out, for the canvases and for what policies remember; caches are those of the pool, which
captured programs lend in turn.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.runtime.stride import run_stride

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from dllmc.policies.rows import Remembered
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import CapturedPrograms, Selects
    from dllmc.runtime.stride import Results, Stride
    from dllmc.spec import DenoiserSpec

    Memory = dict[tuple[str, Remembered], Tensor]

# Graphs that are kept, and bytes of device memory that they may have taken together.
_GRAPHS, _MEMORY = 64, 8 << 30


@dataclass(frozen=True)
class _Captured:
    """A graph with the buffers that it reads and writes."""

    replay: Callable[[], object]
    given: dict[str, Tensor]
    canvas: Tensor
    memory: Memory
    results: Results
    taken: int


class CapturedStrides:
    """Graphs of strides over captured programs.

    Args:
        programs: Whose steps they hold.
        graphs: Kept at most; the one not used for longest goes first.
        memory: Bytes of device memory that they may take together, beyond weights and caches.

    Attributes:
        programs: Whose steps they hold.
        replayed: Strides that were replayed.
        failed: Strides that could not be captured, with the reason; their steps are captured one
            by one.
    """

    def __init__(
        self, programs: CapturedPrograms, *, graphs: int = _GRAPHS, memory: int = _MEMORY
    ) -> None:
        self.programs = programs
        self._limit, self._memory = graphs, memory
        self._known: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        self.replayed = 0
        self.failed: dict[tuple[object, ...], str] = {}

    @property
    def captured(self) -> int:
        """Graphs held."""
        return len(self._known)

    @property
    def taken(self) -> int:
        """Bytes of device memory that capturing them took."""
        return sum(each.taken for each in self._known.values())

    def run(
        self,
        spec: DenoiserSpec,
        pool: Pool,
        stride: Stride,
        tensors: Mapping[str, Tensor],
        selects: Selects,
    ) -> Results:
        """As `run_stride`; what is returned holds until the next stride."""
        key = self._key(pool, stride, selects)
        if key in self.failed or not self.programs.lends(pool.caches):
            return run_stride(self.programs, spec, pool, stride, tensors, selects)
        known = self._known.get(key)
        if known is None:
            return self._first(key, spec, pool, stride, tensors, selects)
        self._known.move_to_end(key)
        torch._foreach_copy_(list(known.given.values()), [tensors[n] for n in known.given])
        inside = {name: pool.memory[name] for name in known.memory}
        _exchange(known.canvas, pool.canvas, known.memory, inside)
        known.replay()
        self.replayed += 1
        _exchange(pool.canvas, known.canvas, inside, known.memory)
        return known.results

    def _key(self, pool: Pool, stride: Stride, selects: Selects) -> tuple[object, ...]:
        first = stride.states[0]
        steps = tuple((step.plan, _names(step.knobs)) for step in stride.steps)
        whole = tuple(state.row for state in stride.states) == tuple(range(len(pool.canvas)))
        caches = tuple(cache.data_ptr() for cache in pool.caches.values())
        decides = selects.wants(first)
        shape = tuple(pool.canvas.shape)
        return steps, first.structure, len(stride.states), whole, caches, decides, shape

    def _first(
        self,
        key: tuple[object, ...],
        spec: DenoiserSpec,
        pool: Pool,
        stride: Stride,
        tensors: Mapping[str, Tensor],
        selects: Selects,
    ) -> Results:
        """Take a stride uncaptured, which compiles what is to be compiled; then capture it."""
        given = {name: tensor.clone() for name, tensor in tensors.items()}
        # What others in the pool remember is none of this graph's.
        remembered = stride.states[0].remembered.items()
        memory = {entry: pool.memory[entry].clone() for entry in remembered}
        # A plain mapping: lent caches go back when the pool that they were lent to is gone.
        caches, canvas = dict(pool.caches), pool.canvas.clone()
        held = dataclasses.replace(pool, canvas=canvas, caches=caches, memory=memory)
        with self.programs.uncaptured():
            results = run_stride(self.programs, spec, pool, stride, tensors, selects)
            before = _reserved(pool)
            layout: list[list[str]] = []

            def call() -> tuple[Tensor, ...]:
                found = run_stride(self.programs, spec, held, stride, given, selects)
                layout[:] = [list(each) for each in found]
                return tuple(tensor for each in found for tensor in each.values())

            try:
                replay, flat = self.programs.capture(call)
            except RuntimeError as error:
                self._refuse(key, stride, error)
                return results
        parts = iter(flat)
        named = [{name: next(parts) for name in names} for names in layout]
        taken = max(_reserved(pool) - before, 0)
        self._known[key] = _Captured(replay, given, canvas, memory, named, taken)
        while len(self._known) > 1 and (
            len(self._known) > self._limit or self.taken > self._memory
        ):
            self._known.popitem(last=False)
        return results

    def _refuse(self, key: tuple[object, ...], stride: Stride, error: RuntimeError) -> None:
        self.failed[key] = str(error).partition("\n")[0]
        plan, count = stride.steps[-1].plan.key, len(stride.steps)
        warnings.warn(
            f"{count} steps to {plan} are captured one by one, which is slower: "
            f"{self.failed[key]}; {len(self.failed)} such strides so far",
            RuntimeWarning,
            stacklevel=4,
        )


def _names(knobs: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(each) for each in knobs.values())


def _reserved(pool: Pool) -> int:
    return torch.cuda.memory_reserved() if pool.canvas.is_cuda else 0


def _exchange(
    canvas: Tensor,
    source: Tensor,
    memory: Memory,
    sources: Memory,
) -> None:
    """Copy canvases and what is remembered."""
    canvas.copy_(source)
    for key, tensor in memory.items():
        tensor.copy_(sources[key])
