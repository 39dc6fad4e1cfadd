"""Run the passes over a captured graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch.fx import GraphModule

from dllmc.compiler.verify import Probe
from dllmc.passes import Stage, ordered, pass_types
from dllmc.spec import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dllmc.passes import GraphPass, PassConfig, PassContext, PassResult

_MAIN = (Stage.CANONICALISE, Stage.POSITIONALISE, Stage.SPECIALISE, Stage.CACHE)
PassOptions = "Mapping[str, Mapping[str, object] | PassConfig]"


def configure(options: Mapping[str, Mapping[str, object] | PassConfig] | None) -> dict[str, PassConfig]:
    """Typed configurations of passes by name.

    Raises:
        ConfigError: No pass has that name, or it has no such option.
    """
    known, configs = pass_types(), {}
    for name, option in (options or {}).items():
        if name not in known:
            raise ConfigError(f"there is no pass `{name}`; {nearest(name, known)}")
        kind = known[name].config_type
        if isinstance(option, kind):
            configs[name] = option
            continue
        try:
            configs[name] = kind.model_validate(option)
        except ValueError as error:
            detail = str(error).splitlines()[1:3]
            raise ConfigError(
                f"pass `{name}` does not take {option!r}: {' '.join(detail)}"
            ) from None
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
    show = before_and_after or (lambda name, graph: None)
    show("capture", captured)
    results: list[PassResult] = []

    def apply(kind: type[GraphPass], module: GraphModule) -> None:
        probe = Probe(context.spec) if verify else None
        before = probe.observe(module) if probe else None
        results.append(kind(configs.get(kind.name)).run(module, context))
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


def _copy(module: GraphModule) -> GraphModule:
    """A graph of its own over the same tensors."""
    copied = GraphModule(module, copy.deepcopy(module.graph))
    return copied
