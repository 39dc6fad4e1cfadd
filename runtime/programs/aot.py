"""Run steps ahead of time: machine code out of the artifact, and nothing is compiled.

AOTInductor's code checks nothing: a cache that is shorter than the plan says corrupts the heap,
a longer one gives wrong answers, and a token that is not in the vocabulary ends the process. So
every input is checked here before it runs.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

from dllmc.artifact import weights_of
from dllmc.runtime.programs._checked import CheckedInputs
from dllmc.runtime.programs.base import Programs, Statistics, padded
from dllmc.runtime.target import check_target
from dllmc.spec import ArtifactError, PlanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.artifact.binaries import Binaries, Call, Program
    from dllmc.spec import DenoiserSpec, StepPlan

    # Piece, arguments with weights in their places, where others come from, where results go.
    Step = tuple[Any, list[Tensor | None], list[tuple[int, int]], tuple[tuple[int, int], ...]]


class AotPrograms(Programs):
    """The ahead-of-time programs of a package.

    Args:
        package: With programs that were compiled ahead of time.
        device: Where they run.

    Raises:
        ArtifactError: They are for another machine or another torch.
        UsageError: It has none.
    """

    execution = "aot"

    def __init__(self, package: Package, device: torch.device) -> None:
        super().__init__(package)
        if package.binaries is None:
            raise UsageError(
                f"`{package.name}` holds no ahead-of-time programs; make them with "
                "`dllmc compile MODEL -o ARTIFACT --backend aot`, or use `--backend inductor`"
            )
        self._binaries: Binaries = package.binaries
        check_target(self._binaries.listing.target, device, package.name)
        self._device = device
        self._weights = {
            name.replace(".", "__"): weight.contiguous()
            for name, weight in weights_of(*package.graphs.values()).items()
        }
        self._known = {program.kind: program for program in self._binaries.listing.programs}
        self._runners: dict[str, Any] = {}
        self._linked: dict[tuple[object, ...], LinkedProgram] = {}
        # A library runs in one thread at a time, and whoever waits for it keeps Python's lock,
        # which operators that are written in Python need: threads wait here instead.
        self._running = threading.Lock()

    def fit(self, plan: StepPlan) -> StepPlan:
        return padded(plan)

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        kind = kind_of(plan)
        with self._running, torch.no_grad():
            if kind not in self._linked:
                self._linked[kind] = self._link(kind, plan)
            return self._linked[kind](plan, inputs)

    def _link(self, kind: tuple[object, ...], plan: StepPlan) -> LinkedProgram:
        program = self._known.get(kind)
        if program is None:
            raise PlanError(
                f"`{self.package.name}` has no ahead-of-time program for plan `{plan.key}`; add "
                "it with `dllmc compile ARTIFACT --add-plan CONFIG`, the configuration that asks "
                "for it, or use `--backend inductor`"
            )
        steps = [self._step(call) for call in program.calls]
        return LinkedProgram(program, steps, self._device, self.package.spec)

    def _step(self, call: Call) -> Step:
        weights: list[Tensor | None] = []
        takes: list[tuple[int, int]] = []
        for number, source in enumerate(call.takes):
            kind, _, name = source.partition(":")
            if kind == "value":
                takes.append((number, int(name)))
                weights.append(None)
                continue
            name = name.replace(".", "__")
            if name not in self._weights:
                raise ArtifactError(
                    f"a program of `{self.package.name}` reads the weight `{name}`, which it does "
                    "not have; compile again"
                )
            weights.append(self._weights[name])
        return self._runner(call.piece), weights, takes, call.gives

    def _runner(self, piece: str) -> Any:
        if piece not in self._runners:
            library = self._binaries.files[self._binaries.listing.pieces[piece]]
            self._runners[piece] = load_library(library, self._device)
        return self._runners[piece]


class LinkedProgram:
    """A program with its machine code and weights.

    Args:
        program: What it takes and calls.
        steps: Its calls.
        device: Where its inputs must be.
        spec: Of the denoiser.
    """

    def __init__(
        self, program: Program, steps: Sequence[Step], device: torch.device, spec: DenoiserSpec
    ) -> None:
        self._steps = steps
        self._checked = CheckedInputs(program.takes, device, spec)
        self._gives = program.gives
        places = [place for call in program.calls for _, place in call.gives]
        self._blank = [None] * (max(places, default=-1) + 1 - len(self._checked))

    def __call__(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        """Results of the step; caches among `inputs` are changed in place.

        Raises:
            PlanError: An input is not as the plan says.
        """
        values: list[Any] = [*self._checked(plan, inputs), *self._blank]
        for runner, weights, takes, gives in self._steps:
            given = weights.copy()
            for number, place in takes:
                given[number] = values[place]
            made = runner.run(given)
            for number, place in gives:
                values[place] = made[number]
        return tuple(values[place] for place in self._gives)


def load_library(library: Path, device: torch.device) -> Any:
    """The machine code of a piece, ready to run.

    Raises:
        ArtifactError: It cannot be loaded.
    """
    kinds = {"cpu": "AOTIModelContainerRunnerCpu", "cuda": "AOTIModelContainerRunnerCuda"}
    runner = getattr(torch._C._aoti, kinds[device.type])
    try:
        return runner(str(library), 1)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"`{library}` cannot be loaded ({reason}); compile again") from error


def kind_of(plan: StepPlan) -> tuple[object, ...]:
    """The kind of the program that runs `plan`, as `Program.kind`."""
    return plan.statistics, plan.mask, plan.inputs, plan.saliency, plan.batch == 1
