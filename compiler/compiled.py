"""Compile a denoiser: capture, passes, and a package that the runtime can run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from dllmc.artifact import ChatTemplate, Package, hash_weights, save_package, weights_of
from dllmc.compiler.capture import capture
from dllmc.compiler.pipeline import configure, run_passes
from dllmc.kernels import default_implementations
from dllmc.models import LoadedModel
from dllmc.passes import PassContext
from dllmc.passes.lower_operators import LowerOperatorsConfig
from dllmc.passes.match_attention import SDPA
from dllmc.spec import CaptureError, ConfigError, DenoiserSpec, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn
    from torch.fx import GraphModule

    from dllmc.passes import PassConfig, PassResult

Backend = Literal["eager", "inductor"]


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
    spec: DenoiserSpec | None = None,
    backend: str = "inductor",
    device: str = "cpu",
    verify: bool = False,
    passes: Mapping[str, Mapping[str, object] | PassConfig] | None = None,
    before_and_after: Callable[[str, GraphModule], None] | None = None,
) -> CompiledModel:
    """Compile a denoiser into steps that evaluate any rows of a canvas.

    Args:
        model: From `load_model`, or any module tokens `[B, T]` -> logits `[B, T, V]` with `spec`.
            Its weights are read in place where they need not be rearranged, so they must not
            change any more.
        engine_of: Makes an engine of a package; the front gives the runtime's.
        spec: Of a bare module.
        backend: `inductor` compiles on first use, `eager` runs the graph node by node.
        device: Where the steps run.
        verify: Check every pass by execution in float64, to 1e-9. Takes a float64 copy of the
            weights for as long as the check lasts.
        passes: Options by pass; unknown names and options are errors.
        before_and_after: Called with each pass's name and the graph after it.

    Raises:
        CaptureError: torch.export refuses the module.
        ConfigError: An option is unknown.
        NotADenoiserError: The module's attention is causal.
        NotPositionWiseError: The module mixes positions outside attention.
        PassError: A pass matched fewer sites than the model has.
        VerificationError: A pass changed what the graph computes.
    """
    loaded = _loaded(model, spec)
    if backend not in get_args(Backend):
        raise UsageError(
            f"`backend`={backend!r} is unknown; {nearest(backend, get_args(Backend))}"
        )
    _check_supported(loaded.spec)
    configs = configure(passes)
    module = loaded.module.to(device)
    dtype = _dtype_of(module)
    if "lower_operators" not in configs:
        chosen = default_implementations(torch.device(device), getattr(torch, dtype))
        configs["lower_operators"] = LowerOperatorsConfig(implementations=chosen)
    with _evaluating(module):
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
    )
    return CompiledModel(package, results, engine_of)


def _loaded(model: LoadedModel | nn.Module, spec: DenoiserSpec | None) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model if spec is None else dataclasses.replace(model, spec=spec)
    if spec is None:
        raise UsageError("a bare module needs `spec`=DenoiserSpec(...): at least its mask token")
    return LoadedModel(model, spec, None, type(model).__name__, None, {})


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off and gradients off, and then as they were: the module is its owner's."""
    training = {part: part.training for part in module.modules()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def _check_supported(spec: DenoiserSpec) -> None:
    if spec.attention != "full":
        raise ConfigError(
            f"`attention`={spec.attention!r} cannot be compiled by this version; only full "
            "attention can"
        )
    if spec.logit_shift:
        raise ConfigError(
            f"`logit_shift`={spec.logit_shift} cannot be compiled by this version; only models "
            "whose logits belong to their own position can"
        )


def _rewrite(
    module: nn.Module,
    spec: DenoiserSpec,
    configs: Mapping[str, PassConfig],
    *,
    verify: bool = False,
    before_and_after: Callable[[str, GraphModule], None] | None = None,
) -> tuple[dict[str, GraphModule], list[PassResult]]:
    captured = capture(module, spec)
    layers = sum(node.target is SDPA for node in captured.graph.nodes)
    if not layers:
        raise CaptureError(
            f"{type(module).__name__} has no scaled_dot_product_attention call that the compiler "
            "can find; there is nothing to cache"
        )
    declared: dict[str, int] = getattr(module, "expected_matches", dict)()
    context = PassContext(spec, layers, declared)
    return run_passes(captured, context, configs, verify=verify, before_and_after=before_and_after)


def _dtype_of(module: nn.Module) -> str:
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(dtypes) != 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes)) or "none"
        raise CaptureError(f"the weights have the dtypes {names}; convert them to one")
    return str(dtypes.pop()).removeprefix("torch.")
