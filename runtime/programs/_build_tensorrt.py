"""Build TensorRT engines of steps. Not run on a GPU yet: tests run it against a stand-in.

Attention is given as matrix products: torch-tensorrt 2.13 takes every mask for a causal one where
nobody says otherwise, and what it decomposes itself does not fit the views that follow. Caches go
in and come out, since an update in place is dropped there without a word.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from dllmc.artifact.binaries import Input
from dllmc.artifact.engines import EngineListing, EngineProgram, Engines, SizeRange
from dllmc.artifact.functional import functional
from dllmc.kernels import bodies
from dllmc.runtime.programs.base import (
    described,
    dynamic_axes,
    example_inputs,
    example_of,
)
from dllmc.runtime.programs.tensorrt import require_gpu
from dllmc.spec import PlanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from dllmc.spec import DenoiserSpec, StepPlan

# Sizes that engines are tuned for, where the model is that long.
_BEST_BATCH, _MOST_BATCH, _BEST_ROWS = 8, 32, 32
_IMPLEMENTATIONS: Final = {"cached_attention": "plain", "gather_rows": "indexed"}
SETTINGS: Final[Mapping[str, Any]] = {
    "require_full_compilation": True,
    "min_block_size": 1,
    "disable_tf32": True,
    "attn_bias_is_causal": False,
}
"""Of torch-tensorrt, for every engine; precision is the model's own."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which operators of a step TensorRT has a converter for.

    Attributes:
        converted: How many nodes of each have one.
        missing: How many of each have none.
    """

    converted: Mapping[str, int]
    missing: Mapping[str, int]

    def __str__(self) -> str:
        good, bad = sum(self.converted.values()), sum(self.missing.values())
        found = f"{good} of {good + bad} nodes convert"
        lacking = ", ".join(f"{name} ({n})" for name, n in sorted(self.missing.items()))
        return f"{found}; none for {lacking}" if lacking else found


class EngineBuilder:
    """Builds engines on the GPU at hand, each kind of step once.

    Args:
        spec: Of the denoiser.
        device: The GPU.
        known: Engines of the same GPU that are there already.

    Raises:
        UsageError: It is no GPU, or torch-tensorrt is not installed.
    """

    def __init__(
        self, spec: DenoiserSpec, device: torch.device, known: Engines | None = None
    ) -> None:
        require_gpu(device)
        self._trt = import_torch_tensorrt()
        self._device = device
        self._sizes = ranges(spec)
        self._files = dict(known.files) if known else {}
        self._programs = {p.kind: p for p in known.listing.programs} if known else {}
        self._folder = Path(tempfile.mkdtemp(prefix="dllmc-engines-"))

    def has(self, plan: StepPlan) -> bool:
        """Whether what runs `plan` is there."""
        return (plan.statistics, plan.mask, plan.inputs, plan.saliency) in self._programs

    def add(
        self, plan: StepPlan, graph: GraphModule, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Build what runs `plan`, at all sizes of the profile.

        Raises:
            PlanError: An operator has no converter, or TensorRT cannot build it.
        """
        example = example_of(plan.model_copy(update={"batch": 2}))
        program, takes, caches = exported(graph, example, self._device, self._sizes)
        covered = coverage(self._trt, program)
        tell(f"{plan.key}: {covered}")
        if covered.missing:
            raise PlanError(
                f"TensorRT cannot run plan `{plan.key}`: {covered}; decode with another "
                "configuration, or use another back end"
            )
        try:
            content = self._trt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program, arg_inputs=profile(self._trt, takes, self._sizes), **SETTINGS
            )
        except Exception as error:  # of TensorRT and torch-tensorrt, each of their own kinds
            reason = str(error).strip().splitlines()[0]
            raise PlanError(f"TensorRT cannot build plan `{plan.key}`: {reason}") from error
        name = _name(plan)
        made = EngineProgram(
            statistics=plan.statistics,
            mask=plan.mask,
            inputs=plan.inputs,
            saliency=plan.saliency,
            file=f"programs/{name}.engine",
            takes=takes,
            gives=_gives(program, takes),
            caches=tuple(caches),
        )
        self._files[made.file] = self._folder / f"{name}.engine"
        self._files[made.file].write_bytes(content)
        self._programs[made.kind] = made

    def finish(self, architecture: str, version: str) -> Engines:
        """All that was built, for a GPU and a version of TensorRT."""
        listing = EngineListing(
            architecture=architecture,
            tensorrt=version,
            sizes=self._sizes,
            programs=tuple(self._programs.values()),
        )
        return Engines(listing, self._files)


def import_torch_tensorrt() -> Any:
    """The module `torch_tensorrt`.

    Raises:
        UsageError: It cannot be imported.
    """
    try:
        import torch_tensorrt
    except Exception as error:  # libraries that are missing raise what they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"back end `tensorrt` needs a package that cannot be imported ({reason}); "
            "pip install 'dllmc[tensorrt]' where NVIDIA's package index can be reached"
        ) from None
    return torch_tensorrt


def ranges(spec: DenoiserSpec) -> dict[str, SizeRange]:
    """Sizes that engines of a model take; of the slots one is scratch."""
    rows = SizeRange(least=1, best=min(_BEST_ROWS, spec.max_length), most=spec.max_length)
    slots = spec.max_length + 1
    return {
        "batch": SizeRange(least=1, best=_BEST_BATCH, most=_MOST_BATCH),
        "rows": rows,
        "head_rows": rows,
        "slots": SizeRange(least=2, best=slots, most=slots),
    }


def exported(
    graph: GraphModule,
    example: StepPlan,
    device: torch.device,
    sizes: Mapping[str, SizeRange],
) -> tuple[ExportedProgram, dict[str, Input], list[str]]:
    """A step as a program of plain operators, what it takes, and its caches."""
    step, caches = functional(graph, _IMPLEMENTATIONS)
    names = [str(node.target) for node in step.graph.nodes if node.op == "placeholder"]
    given = example_inputs(step, example, device)
    axes = dynamic_axes(step, example)
    takes = {name: described(given[name], axes[name], example) for name in names}
    dims = {
        name: torch.export.Dim(name, min=max(1, size.least), max=size.most)
        for name, size in sizes.items()
    }
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(take.sizes) if isinstance(size, str)}
        for take in takes.values()
    )
    program = torch.export.export(
        step, tuple(given[name] for name in names), dynamic_shapes=shapes, strict=False
    )
    return program.run_decompositions(bodies()), takes, caches


def coverage(trt: Any, program: ExportedProgram) -> Coverage:
    """Which nodes of `program` have a converter, after torch-tensorrt's own lowering."""
    dynamo = trt.dynamo
    settings = dynamo.CompilationSettings(**SETTINGS)
    program = dynamo.lowering.pre_export_lowering(program, settings)
    decompositions = dynamo.lowering.get_decompositions(
        False, False, settings.use_distributed_mode_trace
    )
    module = dynamo.lowering.post_lowering(
        program.run_decompositions(decompositions).module(), settings
    )
    converters = dynamo.conversion.DYNAMO_CONVERTERS
    converted, missing = Counter[str](), Counter[str]()
    for node in module.graph.nodes:
        if node.op == "call_function":
            (converted if node in converters else missing)[str(node.target)] += 1
    return Coverage(dict(converted), dict(missing))


def profile(trt: Any, takes: Mapping[str, Input], sizes: Mapping[str, SizeRange]) -> list[Any]:
    """What torch-tensorrt is told of the inputs, in their order."""

    def shape(take: Input, which: str) -> tuple[int, ...]:
        found = [getattr(sizes[n], which) if isinstance(n, str) else n for n in take.sizes]
        return tuple(found)

    return [
        trt.Input(
            min_shape=shape(take, "least"),
            opt_shape=shape(take, "best"),
            max_shape=shape(take, "most"),
            dtype=getattr(torch, take.dtype),
            name=name,
        )
        for name, take in takes.items()
    ]


def _gives(program: ExportedProgram, takes: Mapping[str, Input]) -> tuple[Input, ...]:
    """What `program` returns, with the sizes of its inputs by name."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"][-len(takes) :]
    names = {
        str(size): name
        for node, take in zip(inputs, takes.values(), strict=True)
        for size, name in zip(node.meta["val"].shape, take.sizes, strict=True)
        if not isinstance(name, int)
    }
    found = []
    for node in program.graph.output_node().args[0]:
        value = node.meta["val"]
        sizes = tuple(names.get(str(n), n) for n in value.shape)
        dtype = str(value.dtype).removeprefix("torch.")
        found.append(Input.model_validate({"dtype": dtype, "sizes": sizes}))
    return tuple(found)


def _name(plan: StepPlan) -> str:
    parts = [plan.statistics, plan.mask, plan.inputs, *(["saliency"] if plan.saliency else [])]
    return "-".join(["denoise", *parts])
