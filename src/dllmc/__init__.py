"""dllmc: a compiler and auto-tuner for diffusion language models.

    import dllmc
    model = dllmc.load_model("embedded")
    compiled = dllmc.compile(model)
    compiled.save("model.dllm")
    engine = dllmc.load("model.dllm")
    engine.generate("sort: d a c b").text

Everything is imported when first used: `import dllmc; dllmc.load(...)` imports neither the
compiler nor the tuner.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllmc.spec import (
    ArtifactError,
    CaptureError,
    CheckpointError,
    ConfigError,
    DenoiserSpec,
    DllmcError,
    HardwareKey,
    ModelNotFoundError,
    NotADenoiserError,
    NotPositionWiseError,
    PassError,
    PlanError,
    PromptError,
    StepPlan,
    TaskError,
    TraceError,
    TuningDatabaseError,
    TuningError,
    UnknownArchitectureError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from dllmc import reference as reference
    from dllmc.autotune import RetargetReport, TuningReport
    from dllmc.compiler import CompiledModel
    from dllmc.compiler.explain import Explanation
    from dllmc.models import LoadedModel
    from dllmc.policies.config import (
        QUALITY_REFERENCE,
        SAFE,
        SPEED_BASELINE,
        DecodingConfig,
    )
    from dllmc.runtime import Engine

__all__ = [
    "QUALITY_REFERENCE",
    "SAFE",
    "SPEED_BASELINE",
    "ArtifactError",
    "CaptureError",
    "CheckpointError",
    "ConfigError",
    "DecodingConfig",
    "DenoiserSpec",
    "DllmcError",
    "HardwareKey",
    "ModelNotFoundError",
    "NotADenoiserError",
    "NotPositionWiseError",
    "PassError",
    "PlanError",
    "PromptError",
    "StepPlan",
    "TaskError",
    "TraceError",
    "TuningDatabaseError",
    "TuningError",
    "UnknownArchitectureError",
    "UsageError",
    "VerificationError",
    "adapt",
    "compile",
    "explain",
    "load",
    "load_model",
    "reference",
    "retarget",
    "tune",
]

_LAZY = {
    "DecodingConfig": "dllmc.policies.config",
    "QUALITY_REFERENCE": "dllmc.policies.config",
    "SAFE": "dllmc.policies.config",
    "SPEED_BASELINE": "dllmc.policies.config",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "reference":
        return importlib.import_module("dllmc.reference")
    raise AttributeError(f"module 'dllmc' has no attribute {name!r}")


def load_model(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> LoadedModel:
    """Load a denoiser: `embedded`, `random:SHAPE`, or a checkpoint folder.

    Args:
        name_or_path: Name or path of the model.
        dtype: Of the weights; None is as stored.
        device: Where the weights go.
        seed: Of random weights.

    Raises:
        ModelNotFoundError: There is no such name, shape or folder.
        UnknownArchitectureError: There is no denoiser for the checkpoint's architecture.
        CheckpointError: The checkpoint is damaged or does not fit its `config.json`.
    """
    from dllmc import models

    return models.load_model(name_or_path, dtype=dtype, device=device, seed=seed)


def compile(
    model: LoadedModel | nn.Module | str | Path,
    *,
    spec: DenoiserSpec | Mapping[str, Any] | None = None,
    example: torch.Tensor | Mapping[str, Any] | Sequence[Any] | None = None,
    backend: str = "inductor",
    device: str = "cpu",
    verify: bool = False,
    passes: Mapping[str, Mapping[str, object]] | None = None,
    plans: Sequence[DecodingConfig] | None = None,
    target: str | None = None,
    precision: str | None = None,
) -> CompiledModel:
    """Compile a denoiser into steps that evaluate any rows of a canvas.

    Args:
        model: From `load_model`, its name or path, or any module whose forward makes logits
            `[B, T, V]` of token ids `[B, T]`: as a tensor, or in an object, mapping or tuple.
        spec: Of a bare module; or those of its fields that the module's `config` does not tell,
            such as `{"mask_id": 5}`.
        example: Of a bare module, token ids `[B, T]`; or a mapping or tuple of arguments of which
            `input_ids` or the first are the tokens, and the others are the same at every call.
            Left out, the module is called with tokens alone.
        backend: `inductor`, `eager`; or `aot`, machine code, and `onnxruntime`, ONNX programs,
            which are made now and kept in the artifact.
        device: Where the steps run.
        verify: Check every pass by execution in float64, to 1e-9.
        passes: Options by pass name.
        plans: For those two, ways to decode that there are to be programs for; None is `SAFE`,
            `SPEED_BASELINE`, and the tuning records of these weights that come with dllmc.
        target: For `aot`, the processors that it runs on: `x86-64-v3`, the default, or `native`,
            like this one.
        precision: What to round weights to: `bfloat16`, `int8`, `int4`, `bfloat16+int8` or
            `bfloat16+int4`. Lossy: the artifact says so, and only a tuning job against the model
            as it was tells what it costs. None rounds nothing.

    Raises:
        DllmcError: The model cannot be captured, is no denoiser, mixes positions outside
            attention, or an option is unknown; the subclass and the message say which.
    """
    from dllmc.compiler import compile_model
    from dllmc.runtime import Engine

    if isinstance(model, str | Path):
        model = load_model(model, device=device)
    compiled = compile_model(
        model,
        engine_of=Engine,
        spec=spec,
        example=example,
        backend=backend,
        device=device,
        verify=verify,
        passes=passes,
        precision=precision,
    )
    from dllmc.runtime.backends import MADE_BEFORE

    if backend not in MADE_BEFORE:
        return compiled
    from dllmc.runtime.build import with_plans

    package = with_plans(compiled.package, plans, target=target)
    return dataclasses.replace(compiled, package=package)


def adapt(
    module: nn.Module,
    *,
    spec: DenoiserSpec | Mapping[str, Any] | None = None,
    example: torch.Tensor | Mapping[str, Any] | Sequence[Any] | None = None,
    canonical: bool = False,
) -> LoadedModel:
    """A plain denoiser, tokens `[B, T]` -> logits `[B, T, V]`, over any module that makes logits.

    `compile` does this by itself; `reference.generate` takes what comes out.

    Args:
        module: As for `compile`. It is not changed.
        spec: As for `compile`.
        example: As for `compile`.
        canonical: Give the module's canonical graph in its place. `reference.generate` then
            follows a cache through attention that is not written as a call of
            `scaled_dot_product_attention`.

    Raises:
        CaptureError: The module fails on the example or returns no logits.
        UsageError: The example does not fit the module, or the spec is incomplete or wrong.
    """
    from dllmc import compiler

    adapted = compiler.adapt(module, spec, example)
    return compiler.canonicalise(adapted) if canonical else adapted


def explain(model: LoadedModel | nn.Module | str | Path, **options: Any) -> Explanation:
    """What the compiler makes of a model, and from which lines each of its operators came.

    Args:
        model: As for `compile`.
        options: Of `compile`: `spec`, `example`, `device`, `passes`; and `plans`, the steps whose
            floors are asked for.

    Returns:
        `text()` is the canonical graph beside the captured one, `html()` and `save_html(path)` a
        page that needs no other file; `generic`, `passes`, `floors` and others are their values.

    Raises:
        DllmcError: As for `compile`.
    """
    from dllmc.compiler import explain as explaining

    if isinstance(model, str | Path):
        model = load_model(model, device=options.get("device", "cpu"))
    return explaining.explain(model, **options)


def load(path: str | Path, **options: Any) -> Engine:
    """An engine over the artifact at `path`.

    Args:
        path: Folder that `CompiledModel.save` or `dllmc compile` wrote.
        options: Of `dllmc.runtime.Engine`: `backend`, `device`, `database`; and `public_key`, the
            PEM file of the key that must have signed the artifact.

    Raises:
        ArtifactError: The artifact is damaged or of another version.
    """
    from dllmc.runtime import Engine

    return Engine.load(path, **options)


def tune(engine: Engine, task: str, **options: Any) -> TuningReport:
    """Search how to decode `task` fast without losing quality, and record what was confirmed.

    Args:
        engine: From `load` or `CompiledModel.engine`.
        task: Name of a task or path of a JSONL file.
        options: Of `dllmc.autotune.tune`: `margin`, `budget`, `trials`, `db` and others.

    Raises:
        TaskError: There is no such task.
        TuningError: The job cannot start or continue.
    """
    from dllmc import autotune

    return autotune.tune(engine, task, **options)


def retarget(engine: Engine, task: str, **options: Any) -> RetargetReport:
    """Say how to decode `task` fast here from what `tune` has learnt elsewhere.

    Args:
        engine: From `load` or `CompiledModel.engine`.
        task: Name of a task or path of a JSONL file.
        options: Of `dllmc.autotune.retarget`: `margin`, `budget`, `db` and others.

    Raises:
        TaskError: There is no such task.
        TuningError: No job has left evidence for it.
    """
    from dllmc import autotune

    return autotune.retarget(engine, task, **options)
