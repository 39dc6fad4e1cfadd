"""Make a package's ahead-of-time programs: those that given ways to decode ask for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from dllmc.policies.config import QUALITY_REFERENCE, SAFE, SPEED_BASELINE, DecodingConfig
from dllmc.runtime.engine import Engine
from dllmc.runtime.placement import device_of
from dllmc.runtime.programs import EagerPrograms, OnnxPrograms
from dllmc.runtime.programs.base import variant
from dllmc.runtime.target import BASELINE, target_for
from dllmc.spec import ConfigError, PlanError, PromptError, StepPlan, UsageError
from dllmc.tuning_db import Record, shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.artifact.binaries import Binaries, Program, Target

# What is decoded to see which plans are asked for: a prompt of so many tokens, alone and in two
# rows. Which kinds of plan there are does not depend on the tokens.
_PROMPT, _RESPONSE = 4, 32


def default_configs(package: Package) -> list[DecodingConfig]:
    """What an artifact decodes with if nobody says how: safe, baseline, and tuning records."""
    found = [SAFE, QUALITY_REFERENCE, SPEED_BASELINE]
    records = [Record.from_json(value) for value in package.records]
    records += [
        entry.record
        for entry in shipped().entries()
        if entry.record is not None
        and entry.record.key.model.weights_sha256 == package.weights_sha256
    ]
    found += [DecodingConfig.model_validate(record.config) for record in records]
    return list(dict.fromkeys(found))


def with_plans(
    package: Package,
    configs: Iterable[DecodingConfig] | None,
    *,
    target: str | None = None,
    add: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Package:
    """`package` with the programs that its back end runs, where it runs what was made before.

    Args:
        package: Compiled for any back end.
        configs: Ways to decode that there are to be programs for; None is `default_configs`.
        target: For `aot`, as for `with_programs`; None is x86-64-v3, or what is there.
        add: Keep the programs that it has.
        tell: Called with what is made next.

    Raises:
        ArtifactError: ONNX Runtime does not take a program, of bfloat16 on a CPU for one.
        ConfigError: A configuration does not fit the model.
        PlanError: There can be no program for a plan.
        UsageError: The target is unknown or not for this back end, or a package is missing.
    """
    if configs is None:
        configs = default_configs(package)
    if package.backend == "onnxruntime":
        if target is not None:
            raise UsageError(
                "`target` means nothing to ONNX programs, which run anywhere; leave it out"
            )
        made = with_exports(package, configs, add=add, tell=tell)
        OnnxPrograms(made, device_of(made)).check()
        return made
    if package.backend == "tensorrt":
        if target is not None:
            raise UsageError(
                "`target` means nothing to TensorRT engines, which run on the GPU at hand; leave "
                "it out"
            )
        return with_engines(package, configs, add=add, tell=tell)
    return with_programs(package, configs, target=target or BASELINE, add=add, tell=tell)


def with_programs(
    package: Package,
    configs: Iterable[DecodingConfig],
    *,
    target: str = "x86-64-v3",
    add: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Package:
    """`package` with ahead-of-time programs for `configs`, as its own back end.

    Takes 5 to 10 s of one core for each piece of a step, and a C++ compiler.

    Args:
        package: Compiled for any back end.
        configs: Ways to decode; each is decoded with once, node by node, to see its plans.
        target: `x86-64-v3` or `native`.
        add: Keep the programs that it has, whose target then counts.
        tell: Called with what is made next.

    Raises:
        ConfigError: A configuration does not fit the model.
        PlanError: A plan cannot be compiled, or asks for what the graphs do not give.
        UsageError: There is no such target.
    """
    known = package.binaries if add else None
    made_for = known.listing.target if known else target_for(target, device_of(package))
    return _built(package, plans_of(package, configs), made_for, known, tell)


def rebuilt(
    package: Package, *, target: str = "native", tell: Callable[[str], None] = lambda _: None
) -> Package:
    """`package` with the programs that it has, compiled again for `target` on this machine.

    Args:
        package: With ahead-of-time programs, of whatever machine.
        target: As for `with_programs`.
        tell: As for `with_programs`.

    Raises:
        PlanError: A plan cannot be compiled.
        UsageError: There is no such target, or there are no programs.
    """
    if package.binaries is None:
        raise UsageError(
            f"`{package.name}` holds no ahead-of-time programs; make them with `dllmc compile "
            "ARTIFACT --add-plan CONFIG`"
        )
    plans = [plan_of(program, package.dtype) for program in package.binaries.listing.programs]
    return _built(package, plans, target_for(target, device_of(package)), None, tell)


def with_exports(
    package: Package,
    configs: Iterable[DecodingConfig],
    *,
    opset: int = 23,
    fixed: Mapping[str, int] | None = None,
    add: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Package:
    """`package` with ONNX programs for `configs`, as its own back end `onnxruntime`.

    Args:
        package: Compiled for any back end.
        configs: Ways to decode, as for `with_programs`.
        opset: Version of ONNX's operators, 23 or 24.
        fixed: Sizes that are not to be dynamic, of `batch`, `rows`, `head_rows` and `slots`, the
            scratch slots of caches among the last. The engine runs dynamic ones only.
        add: Keep the programs that it has, whose opset then counts.
        tell: Called with what is exported next.

    Raises:
        ConfigError: A configuration does not fit the model.
        PlanError: A plan cannot be exported, or asks for what the graphs do not give.
        UsageError: There is no such opset or size, or the extra `onnx` is not installed.
    """
    # Importing the exporter takes seconds.
    from dllmc.runtime.programs._export_onnx import OnnxBuilder

    builder = OnnxBuilder(
        device_of(package), opset, fixed=fixed, known=package.exports if add else None
    )
    programs = EagerPrograms(package)
    for plan in plans_of(package, configs):
        if not builder.has(plan):
            tell(f"exporting {plan.statistics}, {plan.mask}, {plan.inputs}")
            builder.add(plan, programs.graph(plan))
    return dataclasses.replace(package, backend="onnxruntime", exports=builder.finish())


def with_engines(
    package: Package,
    configs: Iterable[DecodingConfig],
    *,
    add: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Package:
    """`package` with TensorRT engines for `configs`, as its own back end. Not run on a GPU yet.

    Args:
        package: Compiled for a GPU, which the engines are built on and for.
        configs: Ways to decode, as for `with_programs`.
        add: Keep the engines that it has.
        tell: Called with what is built next, and which operators of it convert.

    Raises:
        ConfigError: A configuration does not fit the model.
        PlanError: TensorRT has no converter for an operator, or cannot build a plan.
        UsageError: The package is not on a GPU, or torch-tensorrt is not installed.
    """
    from dllmc.runtime.programs._build_tensorrt import EngineBuilder
    from dllmc.runtime.programs.tensorrt import architecture_of, import_tensorrt

    device = device_of(package)
    builder = EngineBuilder(package.spec, device, package.engines if add else None)
    programs = EagerPrograms(package)
    for plan in plans_of(package, configs):
        if not builder.has(plan):
            tell(f"building {plan.statistics}, {plan.mask}, {plan.inputs}")
            builder.add(plan, programs.graph(plan), tell)
    made = builder.finish(architecture_of(device), import_tensorrt().__version__)
    return dataclasses.replace(package, backend="tensorrt", engines=made)


def plan_of(program: Program, dtype: str) -> StepPlan:
    """A plan that `program` runs; its sizes do not count."""
    heads = 0 if program.statistics == "none" else 1
    return StepPlan.model_validate(
        {
            "batch": 1 if program.single else 2,
            "rows": 2,
            "head_rows": heads,
            "slots": 2,
            "statistics": program.statistics,
            "mask": program.mask,
            "inputs": program.inputs,
            "saliency": program.saliency,
            "dtype": dtype,
        }
    )


def plans_of(package: Package, configs: Iterable[DecodingConfig]) -> list[StepPlan]:
    """One plan of every kind that decoding with `configs` asks for.

    Raises:
        ConfigError: One does not fit the model.
    """
    engine = Engine(package, backend="eager")
    recorder = _Recorder(package)
    engine.programs = recorder
    word = next(token for token in range(engine.spec.vocab_size) if token not in _special(engine))
    for config in configs:
        for prompts in ([[word] * _PROMPT], [[word] * _PROMPT, [word] * (_PROMPT + 1)]):
            try:
                engine.generate(prompts, config=config, max_new_tokens=_length(engine))
            except (PromptError, PlanError) as error:
                raise ConfigError(
                    f"no programs can be made for {config.canonical_json()}: {error}"
                ) from error
    return list(recorder.seen.values())


def _built(
    package: Package,
    plans: Iterable[StepPlan],
    target: Target,
    known: Binaries | None,
    tell: Callable[[str], None],
) -> Package:
    # Importing Inductor takes seconds.
    from dllmc.runtime.programs._compile_aot import LibraryBuilder

    programs = EagerPrograms(package)
    builder = LibraryBuilder(target, device_of(package), known)
    for plan in plans:
        batch = "batch 1" if plan.batch == 1 else "larger batches"
        tell(f"compiling {plan.statistics}, {plan.mask}, {plan.inputs} for {batch}")
        builder.add([plan], programs.graph)
    return dataclasses.replace(package, backend="aot", binaries=builder.finish())


def _special(engine: Engine) -> set[int]:
    return {engine.spec.mask_id, *engine.spec.eos_ids}


def _length(engine: Engine) -> int:
    return min(_RESPONSE, engine.spec.max_length - _PROMPT - 1)


class _Recorder(EagerPrograms):
    """Runs node by node and notes the first plan of each kind."""

    def __init__(self, package: Package) -> None:
        super().__init__(package)
        self.seen: dict[Any, StepPlan] = {}

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        self.seen.setdefault((variant(plan), plan.batch == 1), plan)
        with torch.no_grad():
            return super().run(plan, inputs)
