"""Run steps through Inductor, compiled when first needed and cached by Inductor on disk.

Layers that are the same are compiled once and called in turn, so that compile time hardly
depends on their number.

A *dynamic* program takes any sizes: there is one for batch 1 and one for larger batches, per
statistics set. A *static* one is compiled for one plan; `specialise` makes them. With weights
packed outside the program the two are as fast as each other on a CPU (4.3 and 4.2 ms for a step
of a 7 M model), so dynamic ones are the default.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dllmc.runtime.programs.base import (
    Programs,
    Statistics,
    arguments,
    dynamic_axes,
    example_inputs,
    example_of,
    padded,
    sizes_of,
    variant,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.runtime.programs._compile_graph import Condition
    from dllmc.spec import StepPlan

# A static program is used for a smaller step if at most this share of its rows is padding.
_PADDING = 0.25


@dataclass(frozen=True)
class Dynamic:
    """A program for any sizes that meet its conditions.

    Attributes:
        program: Takes the graph's inputs in order.
        conditions: On sizes; mostly none.
        example: The plan that it was compiled with.
    """

    program: Callable[..., Any]
    conditions: list[Condition]
    example: StepPlan

    def holds(self, plan: StepPlan) -> bool:
        """Whether it may run `plan`."""
        sizes = dict(zip(sizes_of(self.example), sizes_of(plan), strict=True))
        return all(condition.holds(sizes) for condition in self.conditions)


class InductorPrograms(Programs):
    """Dynamic programs, and static ones for the plans given to `specialise`.

    Args:
        package: Whose graphs run.
        device: Where.
        layers_once: Whether to compile layers that are the same once.
    """

    execution = "inductor"

    def __init__(
        self, package: Package, device: torch.device, *, layers_once: bool = True
    ) -> None:
        super().__init__(package)
        self._device = device
        self._layers_once = layers_once
        self._pieces: dict[str, tuple[Callable[..., Any], list[Condition]]] = {}
        self._dynamic: dict[tuple[tuple[str, ...], bool], Dynamic] = {}
        self._fitting: dict[StepPlan, Callable[..., Any] | None] = {}
        self._static: dict[StepPlan, Callable[..., Any]] = {}
        self._seconds: dict[object, float] = {}

    @property
    def compiled(self) -> int:
        """Programs compiled so far."""
        return len(self._dynamic) + len(self._static)

    def specialise(self, plans: Iterable[StepPlan]) -> None:
        """Compile a static program for each of `plans`; takes seconds to a minute each."""
        for plan in plans:
            if plan not in self._static:
                begun = time.monotonic()
                self._static[plan] = self._compile(plan, {})[0]
                self._seconds[plan] = time.monotonic() - begun

    def compile_seconds(self, plans: Iterable[StepPlan]) -> float:
        kinds: set[object] = set()
        for plan in map(self.fit, plans):
            kinds |= {plan, _kind(plan)}
        return sum(self._seconds.get(kind, 0.0) for kind in kinds)

    def fit(self, plan: StepPlan) -> StepPlan:
        plan = padded(plan)
        fitting = [static for static in self._static if _holds(static, plan)]
        return min(fitting, key=lambda static: (static.rows, static.head_rows), default=plan)

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        program = self._static.get(plan) or self._dynamic_program(plan)
        if program is None:
            self.specialise([plan])
            program = self._static[plan]
        with torch.no_grad():
            result: Statistics = tuple(program(*arguments(self.graph(plan), inputs)))
        return result

    def _dynamic_program(self, plan: StepPlan) -> Callable[..., Any] | None:
        """The program for all sizes, or None if it does not hold for those of `plan`."""
        if plan in self._fitting:
            return self._fitting[plan]
        kind = _kind(plan)
        if kind not in self._dynamic:
            begun = time.monotonic()
            example, axes = example_of(plan), dynamic_axes(self.graph(plan), plan)
            self._dynamic[kind] = Dynamic(*self._compile(example, axes), example)
            self._seconds[kind] = time.monotonic() - begun
        found = self._dynamic[kind]
        self._fitting[plan] = found.program if found.holds(plan) else None
        return self._fitting[plan]

    def _compile(
        self, plan: StepPlan, dynamic: Mapping[str, tuple[int, ...]]
    ) -> tuple[Callable[..., Any], list[Condition]]:
        # Importing Inductor takes seconds, which a process that runs eagerly need not wait.
        from dllmc.runtime.programs._compile_graph import compile_graph
        from dllmc.runtime.programs._compile_step import compile_step

        graph = self.graph(plan)
        inputs = example_inputs(graph, plan, self._device)
        if not self._layers_once:
            return compile_graph(graph, inputs, dynamic)
        return compile_step(graph, inputs, dynamic, self._pieces)


def _kind(plan: StepPlan) -> tuple[tuple[str, ...], bool]:
    """What tells apart the dynamic programs of two plans."""
    return variant(plan), plan.batch == 1


def _holds(static: StepPlan, plan: StepPlan) -> bool:
    """Whether a step of `plan` may run, padded, in the program of `static`."""
    same = {"rows", "head_rows"}
    if static.model_dump(exclude=same) != plan.model_dump(exclude=same):
        return False
    fits = plan.rows <= static.rows and plan.head_rows <= static.head_rows
    return fits and static.rows * (1 - _PADDING) <= plan.rows
