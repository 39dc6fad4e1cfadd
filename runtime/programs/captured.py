"""Run steps as captured CUDA graphs: one launch for all kernels of a step.

A graph reads and writes the addresses that it was captured with. So there are buffers for the
inputs of every plan, and the caches of a pool are lent from a stock: the next pool of the same
shape gets the same ones, and with them the graphs that know them. Caches from elsewhere are copied
there and back.

Rows and slots are padded to a few sizes, since every plan takes a capture: the first step of a
plan runs uncaptured, which compiles what is to be compiled and fills the libraries' workspaces,
and is captured after.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.runtime.programs.base import Programs, Statistics, arguments, cache_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from dllmc.spec import StepPlan

    # Captures a call: gives what replays it, and what the call returns, which a replay renews.
    Capture = Callable[[Callable[[], Statistics]], tuple[Callable[[], object], Statistics]]

# Rows are padded to a multiple of the first up to the second, and to one of the third beyond.
_FEW_ROWS, _MANY, _MANY_ROWS = 8, 64, 32
_SLOTS = 64
# Graphs that are kept; each holds its inputs, and all share the memory of their intermediates.
_GRAPHS = 128


@dataclass(frozen=True)
class _Captured:
    """A graph with the buffers that it reads, in the order of the program's inputs."""

    replay: Callable[[], object]
    inputs: dict[str, Tensor]
    statistics: Statistics


class Caches(dict[str, "torch.Tensor"]):
    """Lent caches by name; they go back when this is no longer referred to."""


class CapturedPrograms(Programs):
    """Graphs over the programs of another back end.

    Args:
        inner: What is captured.
        capture: Captures a call; None is a CUDA graph.
        graphs: Kept at most; the one not used for longest goes first.

    Attributes:
        capture: Captures a call.
        replayed: Steps that were replayed.
        failed: Plans that could not be captured, with the reason; they run uncaptured.
    """

    def __init__(
        self, inner: Programs, *, capture: Capture | None = None, graphs: int = _GRAPHS
    ) -> None:
        super().__init__(inner.package)
        self.inner = inner
        self.execution = f"{inner.execution}+graphs"
        self.replayed = 0
        self.failed: dict[StepPlan, str] = {}
        self.capture: Capture = CudaGraphs() if capture is None else capture
        self._limit = graphs
        self._known: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        self._stock: defaultdict[tuple[object, ...], list[dict[str, Tensor]]] = defaultdict(list)
        self._gathered: dict[tuple[object, ...], Tensor] = {}
        self._gathers: list[Tensor] = []
        self._lent: set[int] = set()
        self._bypassed = False

    @property
    def captured(self) -> int:
        """Graphs held."""
        return len(self._known)

    @property
    def compiled(self) -> int:
        """Programs compiled and graphs captured so far."""
        return getattr(self.inner, "compiled", 0) + len(self._known)

    def specialise(self, plans: Iterable[StepPlan]) -> None:
        self.inner.specialise(plans)

    def compile_seconds(self, plans: Iterable[StepPlan]) -> float:
        return self.inner.compile_seconds(plans)

    def graph(self, plan: StepPlan) -> torch.fx.GraphModule:
        return self.inner.graph(plan)

    def fit(self, plan: StepPlan) -> StepPlan:
        sizes = {"rows": _padded(plan.rows), "head_rows": _padded(plan.head_rows)}
        if plan.statistics == "none":
            sizes["head_rows"] = 0
        return self.inner.fit(plan.model_copy(update=sizes))

    def slots(self, length: int) -> int:
        return -(-length // _SLOTS) * _SLOTS

    def caches(
        self,
        capacity: int,
        shapes: Mapping[str, tuple[int, int]],
        slots: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> dict[str, Tensor]:
        key = (capacity, tuple(shapes.items()), slots, dtype, device)
        if self._stock[key]:
            buffers = self._stock[key].pop()
            torch._foreach_zero_(list(buffers.values()))
        else:
            buffers = super().caches(capacity, shapes, slots, dtype, device)
            self._lent.update(buffer.data_ptr() for buffer in buffers.values())
        lent = Caches(buffers)
        weakref.finalize(lent, self._stock[key].append, buffers)
        return lent

    def gather(self, caches: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, cache in caches.items():
            key = (name, cache.shape[1:], cache.dtype)
            known = self._gathered.get(key)
            if known is None or len(known) < len(rows):
                known = cache.new_empty(max(len(cache), len(rows)), *cache.shape[1:])
                self._gathered[key] = known
                # Graphs may go on writing into one that has become too small.
                self._gathers.append(known)
                self._lent.add(known.data_ptr())
            found[name] = torch.index_select(cache, 0, rows, out=known[: len(rows)])
        return found

    def lends(self, caches: Mapping[str, Tensor]) -> bool:
        """Whether these are its own, which stay where they are."""
        return all(cache.data_ptr() in self._lent for cache in caches.values())

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Run steps as the other back end does, to capture more than one of them at once."""
        self._bypassed = True
        try:
            yield
        finally:
            self._bypassed = False

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        graph = self.graph(plan)
        if self._bypassed or plan in self.failed:
            return self.inner.run(plan, inputs)
        caches = cache_shapes(graph)
        ours = self.lends({name: inputs[name] for name in caches})
        key = (plan, *(inputs[name].data_ptr() for name in caches if ours))
        known = self._known.get(key)
        if known is None:
            statistics = self.inner.run(plan, inputs)
            self._remember(key, plan, inputs, set(caches) if ours else set())
            return statistics
        self._known.move_to_end(key)
        given = {name: inputs[name] for name in known.inputs if not (ours and name in caches)}
        _copy([known.inputs[name] for name in given], list(given.values()))
        known.replay()
        self.replayed += 1
        if not ours:
            _copy([inputs[name] for name in caches], [known.inputs[name] for name in caches])
        # The next replay of whichever graph may write where these are.
        return tuple(statistic.clone() for statistic in known.statistics)

    def _remember(
        self,
        key: tuple[object, ...],
        plan: StepPlan,
        inputs: Mapping[str, Tensor],
        in_place: set[str],
    ) -> None:
        """Capture the step of `plan`, on the caches `in_place` and on copies of all else."""
        graph = self.graph(plan)
        names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
        held = {n: inputs[n] if n in in_place else inputs[n].clone() for n in names}
        assert len(arguments(graph, held)) == len(held)
        try:
            replay, statistics = self.capture(lambda: self.inner.run(plan, held))
        except RuntimeError as error:
            self.failed[plan] = str(error).partition("\n")[0]
            reason = f"{self.failed[plan]}; {len(self.failed)} plans so far"
            warnings.warn(
                f"the step {plan.key} runs uncaptured, which is slower: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )
            return
        self._known[key] = _Captured(replay, held, statistics)
        for _ in range(len(self._known) - self._limit):
            self._known.popitem(last=False)


class CudaGraphs:
    """Captures calls as CUDA graphs whose intermediates share one pool of memory."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()
        self._first: torch.cuda.CUDAGraph | None = None

    def __call__(self, call: Callable[[], Statistics]) -> tuple[Callable[[], object], Statistics]:
        if self._first is None:
            # The pool is gone with the last graph that uses it, and may not be asked for again.
            self._first, _ = self._captured(lambda: (torch.zeros(1, device="cuda"),))
        graph, statistics = self._captured(call)
        return graph.replay, statistics

    def _captured(self, call: Callable[[], Statistics]) -> tuple[torch.cuda.CUDAGraph, Statistics]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating meanwhile.
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            statistics = call()
        return graph, statistics


def _padded(rows: int) -> int:
    unit = _FEW_ROWS if rows <= _MANY else _MANY_ROWS
    return -(-rows // unit) * unit


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy in as few launches as there are dtypes."""
    pairs = sorted(zip(targets, sources, strict=True), key=lambda pair: str(pair[0].dtype))
    for _, alike in itertools.groupby(pairs, key=lambda pair: pair[0].dtype):
        into, given = zip(*alike, strict=True)
        torch._foreach_copy_(list(into), list(given))
