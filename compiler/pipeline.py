"""Run the passes over a captured graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from torch.fx import GraphModule

from dllmc.compiler.verify import Probe
from dllmc.passes import PassConfig, Stage, ordered, pass_types
from dllmc.spec import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dllmc.passes import GraphPass, PassContext, PassResult

_MAIN = (Stage.CANONICALISE, Stage.POSITIONALISE, Stage.SPECIALISE, Stage.CACHE)


def configure(
    options: Mapping[str, Mapping[str, object] | PassConfig] | None,
) -> dict[str, PassConfig]:
    """Typed configurations of passes by name.

    Raises:
        ConfigError: No pass has that name, it has no such option, or the steps need it.
    """
    known, configs = pass_types(), dict[str, PassConfig]()
    for name, option in (options or {}).items():
        if name not in known:
            raise ConfigError(f"there is no pass `{name}`; {nearest(name, known)}")
        kind = known[name].config_type
        try:
            configs[name] = kind.model_validate(option)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "options"
            raise ConfigError(
                f"pass `{name}`: `{field}`={first['input']!r}: {first['msg'].lower()}; it takes "
                f"{', '.join(kind.model_fields)}"
            ) from None
        if not (configs[name].enabled or known[name].optional):
            raise ConfigError(f"pass `{name}` cannot be disabled: without it no step can run")
    return configs


def run_passes(
    captured: GraphModule,
    context: PassContext,
    configs: Mapping[str, PassConfig],
    *,
    verify: bool = False,
    before_and_after: Callable[[str, GraphModule], None] | None = None,
) -> tuple[dict[str, GraphModule], list[PassResult]]:
    """Rewrite a captured graph into lowered steps by statistics set.

    Args:
        captured: As `capture` returns it; changed in place.
        context: Of the model.
        configs: Options by pass, from `configure`.
        verify: Run the graph before and after each pass on random inputs and compare.
        before_and_after: Called with a pass's name and the graph after it, and with `capture`
            and the captured graph first.

    Raises:
        PassError: A pass matched too few sites.
        VerificationError: A pass changed what the graph computes.
    """
    results: list[PassResult] = []
    device = next((t.device for t in captured.state_dict().values()), torch.device("cpu"))

    def show(name: str, module: GraphModule) -> None:
        if before_and_after is not None:
            before_and_after(name, module)

    show("capture", captured)

    def apply(kind: type[GraphPass], module: GraphModule) -> None:
        rewriting = kind(configs.get(kind.name))
        probe = Probe(context.spec, device) if verify else None
        before = probe.observe(_loss_only(rewriting, module)) if probe else None
        results.append(rewriting.run(module, context))
        if probe and before is not None:
            probe.compare(kind.name, before, probe.observe(module))
        show(kind.name, module)

    for kind in ordered(*_MAIN):
        apply(kind, captured)
    graphs = {"greedy": captured}
    for kind in ordered(Stage.VARIANT):
        variant = _copy(captured)
        apply(kind, variant)
        graphs[kind.variant] = variant
    for graph in graphs.values():
        for kind in ordered(Stage.LOWER):
            apply(kind, graph)
    return graphs, results


def _loss_only(rewriting: GraphPass, module: GraphModule) -> GraphModule:
    """What `rewriting` is to make of `module`, by way of computation as it was before."""
    if not (rewriting.lossy and rewriting.config.enabled):
        return module
    found = _copy(module)
    rewriting.lose(found)
    return found


def _copy(module: GraphModule) -> GraphModule:
    """A graph of its own over the same tensors."""
    return GraphModule(module, copy.deepcopy(module.graph))
