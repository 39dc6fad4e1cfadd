"""Compile a denoiser: capture, passes, and a package that the runtime can run."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from dllmc.artifact import ChatTemplate, Package, hash_weights, save_package, weights_of
from dllmc.compiler._adapter import name_of
from dllmc.compiler._infer_spec import built_spec
from dllmc.compiler._state import evaluating
from dllmc.compiler.adapt import adapt, check_weights
from dllmc.compiler.capture import capture
from dllmc.compiler.pipeline import configure, run_passes
from dllmc.compiler.precision import rounded
from dllmc.kernels import default_implementations
from dllmc.models import LoadedModel
from dllmc.passes import PassContext, Stage, ordered
from dllmc.passes.lower_operators import LowerOperatorsConfig
from dllmc.passes.match_eager_attention import count_attention
from dllmc.spec import CaptureError, DenoiserSpec, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn
    from torch.fx import GraphModule

    from dllmc.compiler._adapter import Example
    from dllmc.passes import PassConfig, PassResult

Backend = Literal["eager", "inductor", "aot", "onnxruntime", "tensorrt"]


@dataclass(frozen=True)
class CompiledModel:
    """A compiled denoiser.

    Attributes:
        package: What goes into an artifact.
        report: What each pass did, in order.
    """

    package: Package
    report: list[PassResult]
    engine_of: Callable[..., Any] = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the artifact folder `path`.

        Raises:
            ArtifactError: Something that is no artifact stands there.
        """
        return save_package(self.package, path)

    def engine(self, **options: Any) -> Any:
        """A `dllmc.runtime.Engine` over this model."""
        return self.engine_of(self.package, **options)


def compile_model(
    model: LoadedModel | nn.Module,
    *,
    engine_of: Callable[..., Any],
    spec: DenoiserSpec | Mapping[str, Any] | None = None,
    example: Example = None,
    backend: str = "inductor",
    device: str = "cpu",
    verify: bool = False,
    passes: Mapping[str, Mapping[str, object] | PassConfig] | None = None,
    precision: str | None = None,
    before_and_after: Callable[[str, GraphModule], None] | None = None,
) -> CompiledModel:
    """Compile a denoiser into steps that evaluate any rows of a canvas.

    Args:
        model: From `load_model` or `adapt`, or any module that makes logits of tokens. Its weights
            are read in place where they need not be rearranged, so they must not change any more.
        engine_of: Makes an engine of a package; the front gives the runtime's.
        spec: Of a bare module, or those of its fields that the module's `config` does not tell.
        example: How a bare module is called, as for `adapt`; token ids alone where left out.
        backend: `inductor` compiles on first use, `eager` runs the graph node by node, and `aot`
            runs programs that are made of the package (`dllmc.runtime.build`).
        device: Where the steps run.
        verify: Check every pass by execution in float64, to 1e-9. Takes a float64 copy of the
            weights for as long as the check lasts.
        passes: Options by pass; unknown names and options are errors.
        precision: What to round weights to, of `dllmc.compiler.precision.PRECISIONS`; lossy. None
            leaves them as they are.
        before_and_after: Called with each pass's name and the graph after it.

    Raises:
        CaptureError: The module cannot be run on the example or captured, or has no logits.
        ConfigError: An option is unknown.
        NotADenoiserError: The module's attention is causal.
        NotPositionWiseError: The module mixes positions outside attention.
        PassError: A pass matched fewer sites than the model has.
        UsageError: The example does not fit the module, or the spec is incomplete or wrong.
        VerificationError: A pass changed what the graph computes.
    """
    loaded = _loaded(model, spec, example)
    if backend not in get_args(Backend):
        raise UsageError(
            f"`backend`={backend!r} is unknown; {nearest(backend, get_args(Backend))}"
        )
    loaded, configs, lost = rounded(loaded, precision, configure(passes))
    module = loaded.module.to(device)
    dtype = check_weights(module)
    if "lower_operators" not in configs:
        chosen = default_implementations(torch.device(device), getattr(torch, dtype))
        configs["lower_operators"] = LowerOperatorsConfig(implementations=chosen)
    with evaluating(module):
        if verify:
            # Implementations may lack float64; they have tests of their own.
            plain = configs | {"lower_operators": LowerOperatorsConfig()}
            _rewrite(copy.deepcopy(module).double(), loaded.spec, plain, verify=True)
        graphs, results = _rewrite(module, loaded.spec, configs, before_and_after=before_and_after)
    weights = weights_of(*graphs.values())
    template = loaded.chat_template
    package = Package(
        name=loaded.name,
        spec=loaded.spec,
        dtype=dtype,
        backend=backend,
        graphs=graphs,
        weights_sha256=hash_weights(weights),
        tokenizer=loaded.tokenizer,
        chat=None if template is None else ChatTemplate(template, loaded.special_tokens),
        report=[dataclasses.asdict(result) for result in results],
        precision=lost,
    )
    return CompiledModel(package, results, engine_of)


def _loaded(
    model: LoadedModel | nn.Module,
    spec: DenoiserSpec | Mapping[str, Any] | None,
    example: Example,
) -> LoadedModel:
    if not isinstance(model, LoadedModel):
        return adapt(model, spec, example)
    if example is not None:
        raise UsageError(
            "`example` goes with a bare module; a loaded model knows how it is called"
        )
    if spec is None:
        return model
    fields = {name: getattr(model.spec, name) for name in model.spec.model_fields_set}
    given = spec if isinstance(spec, DenoiserSpec) else built_spec(model.name, fields | dict(spec))
    return dataclasses.replace(model, spec=given)


def _rewrite(
    module: nn.Module,
    spec: DenoiserSpec,
    configs: Mapping[str, PassConfig],
    *,
    verify: bool = False,
    before_and_after: Callable[[str, GraphModule], None] | None = None,
) -> tuple[dict[str, GraphModule], list[PassResult]]:
    captured = capture(module, spec, wide=verify)
    declared: dict[str, int] = getattr(module, "expected_matches", dict)()
    context = PassContext(spec, count_attention(captured), declared)
    if not context.layers:
        # What mixes positions in place of attention is named by the analysis.
        for kind in ordered(Stage.CANONICALISE, Stage.POSITIONALISE):
            kind().run(captured, context)
        raise CaptureError(
            f"{name_of(module)} has no attention that the compiler can find; there is nothing to "
            "cache"
        )
    return run_passes(captured, context, configs, verify=verify, before_and_after=before_and_after)
