"""Export steps to ONNX: caches in and out, all sizes dynamic, weights where the artifact has them.

Caches are written by ScatterND: TensorScatter of opset 24 writes runs of slots, and a step's rows
may go to any. ONNX Runtime does it in place where input and output are one buffer.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from dllmc.artifact.exports import ExportedProgram, ExportListing, Exports
from dllmc.artifact.functional import functional
from dllmc.artifact.graph import weights_of
from dllmc.kernels import bodies
from dllmc.runtime.programs._onnx_model import output_of, serialised, tidy
from dllmc.runtime.programs.base import (
    SIZES,
    described,
    dynamic_axes,
    example_inputs,
    example_of,
    sizes_of,
)
from dllmc.spec import PlanError, UsageError, nearest, statistics_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor
    from torch.fx import GraphModule

    from dllmc.artifact.binaries import Input
    from dllmc.spec import StepPlan

OPSETS: Final = (23, 24)
"""Versions of ONNX's operators that have RMSNormalization and Attention."""

# ONNX Runtime 1.32 refuses an attention mask that is to be broadcast over queries.
_IMPLEMENTATIONS: Final = {"cached_attention": "full_mask"}
# What a step returns for each statistic beyond the candidate's.
_EXTRAS: Final = {
    "entropy": ["entropy"],
    "gather": ["gathered_logits"],
    "hidden": ["hidden_states"],
    "logits": ["logits"],
    "second": ["second_logit"],
    "top": ["top_ids", "top_logits"],
}


class OnnxBuilder:
    """Exports steps, each kind once.

    Args:
        device: Where example inputs stand.
        opset: Of `OPSETS`.
        fixed: Sizes by name that are not to be dynamic.
        known: Exports that are there already, all dynamic.

    Raises:
        UsageError: The opset is none of them, there is no such size, or the extra `onnx` is not
            installed.
    """

    def __init__(
        self,
        device: torch.device,
        opset: int,
        *,
        fixed: Mapping[str, int] | None = None,
        known: Exports | None = None,
    ) -> None:
        if opset not in OPSETS:
            raise UsageError(f"`opset`={opset} is not supported; use 23 or 24")
        self._fixed = _checked_sizes(fixed or {})
        check_installed("onnx", "onnxscript")
        self._device = device
        self._opset = known.listing.opset if known else opset
        self._files = dict(known.files) if known else {}
        self._programs = {p.kind: p for p in known.listing.programs} if known else {}

    def has(self, plan: StepPlan) -> bool:
        """Whether what runs `plan` is there."""
        return kind_of(plan) in self._programs

    def add(self, plan: StepPlan, graph: GraphModule) -> None:
        """Export what runs `plan`, whatever its sizes.

        Raises:
            PlanError: It cannot be exported.
        """
        program, content = self._program(plan, graph)
        self._programs[program.kind] = program
        self._files[program.file] = content

    def finish(self) -> Exports:
        """All that was exported."""
        version = ".".join(torch.__version__.split(".")[:2])
        programs = tuple(self._programs.values())
        listing = ExportListing(opset=self._opset, torch=version, programs=programs)
        return Exports(listing, self._files)

    def _program(self, plan: StepPlan, graph: GraphModule) -> tuple[ExportedProgram, bytes]:
        # At batch 1 the exporter would fix the batch without a word.
        example = example_of(plan.model_copy(update={"batch": 2}))
        step, caches = functional(graph, _IMPLEMENTATIONS)
        names = [str(node.target) for node in step.graph.nodes if node.op == "placeholder"]
        given = example_inputs(step, example, self._device)
        axes = dynamic_axes(step, example)
        takes = {n: described(given[n], axes[n], example, self._fixed) for n in names}
        if self._fixed:
            given = example_inputs(step, _with_sizes(example, self._fixed), self._device)
        model = _exported(step, {n: given[n] for n in names}, takes, plan, self._opset)
        gives = [*_result_names(plan, len(model.graph.outputs) - len(caches))]
        gives += [f"present_{name}" for name in caches]
        weights = tidy(model, takes, gives, weights_of(graph))
        program = ExportedProgram(
            statistics=plan.statistics,
            mask=plan.mask,
            inputs=plan.inputs,
            saliency=plan.saliency,
            file=file_of(plan),
            takes=takes,
            gives={value.name: output_of(value) for value in model.graph.outputs},
            caches=tuple(caches),
            weights=weights,
        )
        return program, serialised(model, name=program.file.removesuffix(".onnx"), weights=weights)


def kind_of(plan: StepPlan) -> tuple[object, ...]:
    """The kind of the program that runs `plan`, as `ExportedProgram.kind`."""
    return plan.statistics, plan.mask, plan.inputs, plan.saliency


def file_of(plan: StepPlan) -> str:
    """Name of the model that runs `plan`."""
    parts = ["denoise", plan.statistics, plan.mask, plan.inputs]
    return "-".join([*parts, *(["saliency"] if plan.saliency else [])]) + ".onnx"


def _result_names(plan: StepPlan, count: int) -> list[str]:
    """Names of the `count` results of a step, in order."""
    base, extras = statistics_parts(plan.statistics)
    names = [] if base == "none" else ["candidate_ids", "candidate_logits", "tail_mass"]
    for name in sorted(extras):
        names += _EXTRAS[name]
    return names + [f"saliency_{layer}" for layer in range(count - len(names))]


def _checked_sizes(fixed: Mapping[str, int]) -> Mapping[str, int]:
    for name, size in fixed.items():
        if name not in SIZES:
            raise UsageError(f"there is no size `{name}`; {nearest(name, map(str, SIZES))}")
        if size < (2 if name == "slots" else 1):
            raise UsageError(f"`{name}`={size} is too small for a step")
    return fixed


def _with_sizes(plan: StepPlan, fixed: Mapping[str, int]) -> StepPlan:
    """`plan` with the sizes `fixed`, and none of the others equal to one of them.

    The exporter would take equal sizes for one size.
    """
    sizes = dict(zip(map(str, SIZES), sizes_of(plan), strict=True))
    for name, size in sizes.items():
        while name not in fixed and sizes[name] in fixed.values():
            sizes[name] = size = size + 20
    sizes |= fixed
    sizes["slots"] -= plan.scratch
    if plan.statistics == "none":
        sizes["head_rows"] = 0
    return plan.model_copy(update=sizes)


def check_installed(*packages: str) -> None:
    """See that `packages` can be imported.

    Raises:
        UsageError: One cannot.
    """
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise UsageError(
                f"this needs `{package}`, which cannot be imported ({error}); "
                "pip install 'dllmc[onnx]'"
            ) from None


def _exported(
    step: GraphModule,
    given: Mapping[str, Tensor],
    takes: Mapping[str, Input],
    plan: StepPlan,
    opset: int,
) -> Any:
    dims = {name: torch.export.Dim(str(name), min=1, max=2**31 - 1) for name in SIZES}
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(take.sizes) if isinstance(size, str)}
        for take in takes.values()
    )
    try:
        with _quiet():
            program = torch.export.export(
                step, tuple(given.values()), dynamic_shapes=shapes, strict=False
            )
            program = program.run_decompositions(bodies())
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=list(takes),
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # of torch.export and torch.onnx, each of their own kinds
        reason = str(error).strip().splitlines()[0]
        raise PlanError(f"plan `{plan.key}` cannot be exported to ONNX: {reason}") from error
    assert exported is not None
    return exported.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of torchvision, and of names that are given twice."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
