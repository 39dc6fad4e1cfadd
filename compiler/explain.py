"""What the compiler made of a model: passes, graphs, source lines, and what a step must cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dllmc.compiler import _html, _listing, _text
from dllmc.compiler._floor import Floor, floor
from dllmc.compiler._provenance import Provenance, Source
from dllmc.compiler.compiled import compile_model
from dllmc.passes import Stage, ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import nn
    from torch.fx import GraphModule

    from dllmc.compiler._adapter import Example
    from dllmc.compiler._listing import Row, Section
    from dllmc.compiler.compiled import CompiledModel
    from dllmc.models import LoadedModel
    from dllmc.passes import PassConfig, PassResult
    from dllmc.spec import DenoiserSpec, StepPlan

__all__ = ["Explanation", "Floor", "Recorder", "Source", "explain", "floor", "operators"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say about a compilation.

    Attributes:
        name: Of the model.
        spec: Of the denoiser.
        passes: What each pass did, in order.
        before: How often each operator is called in the captured graph.
        after: The same in the lowered graph, by statistics set.
        floors: By plan, in the order in which they were asked for.
        original: The captured graph by layer, layers that repeat the one before folded.
        canonical: The graph of canonical operators in the same way. Each row says from which
            captured calls and source lines it came.
    """

    name: str
    spec: DenoiserSpec
    passes: list[PassResult]
    before: Counter[str]
    after: dict[str, Counter[str]]
    floors: list[Floor]
    original: list[Section]
    canonical: list[Section]

    @property
    def generic(self) -> dict[str, list[Row]]:
        """Calls that no pass gave a meaning, by operator, the most frequent first."""
        return _listing.generic(self.canonical)

    def text(self) -> str:
        """The canonical graph beside the captured one, and what was left generic."""
        graph = _text.beside(self.original, self.canonical)
        return f"{graph}\n\nleft generic:\n{_text.generic_lines(self.generic)}"

    def html(self, rates: tuple[float, float] | None = None) -> str:
        """One page that shows everything and reads no other file.

        Args:
            rates: Bytes/s and FLOP/s of a machine, for the time of each floor.
        """
        return _html.page(self, rates)

    def save_html(self, path: str | Path, rates: tuple[float, float] | None = None) -> None:
        """Write `html` to `path`."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.html(rates))


class Recorder:
    """Watches one compilation: its `before_and_after`.

    Attributes:
        before: Operators of the captured graph.
        listing: The captured graph as torch prints it.
        original: As in `Explanation`.
        canonical: As in `Explanation`.
    """

    def __init__(self) -> None:
        self.before: Counter[str] = Counter()
        self.listing = ""
        self.original: list[Section] = []
        self.canonical: list[Section] = []
        self._provenance: Provenance | None = None
        self._last = ordered(Stage.CANONICALISE)[-1].name

    def __call__(self, name: str, module: GraphModule) -> None:
        if name == "capture":
            self.before, self.listing = operators(module), str(module.graph)
            self._provenance = Provenance(module)
            self.original = _listing.sections(module, self._provenance)
        elif self._provenance is not None:
            self._provenance.end_pass()
            if name == self._last:
                self.canonical = _listing.sections(module, self._provenance)
                self._provenance.stop()
                self._provenance = None

    def explanation(self, compiled: CompiledModel, plans: Iterable[StepPlan] = ()) -> Explanation:
        """What was seen, and the floors of `plans`.

        Raises:
            PlanError: A plan does not fit the model.
        """
        package = compiled.package
        return Explanation(
            name=package.name,
            spec=package.spec,
            passes=compiled.report,
            before=self.before,
            after={kind: operators(graph) for kind, graph in package.graphs.items()},
            floors=[floor(package, plan) for plan in plans],
            original=self.original,
            canonical=self.canonical,
        )


def explain(
    model: LoadedModel | nn.Module,
    plans: Iterable[StepPlan] = (),
    *,
    spec: DenoiserSpec | Mapping[str, Any] | None = None,
    example: Example = None,
    device: str = "cpu",
    passes: Mapping[str, Mapping[str, object] | PassConfig] | None = None,
    before_and_after: Callable[[str, GraphModule], None] | None = None,
) -> Explanation:
    """Compile `model` as far as the lowered graph, and say what happened.

    Args:
        model: As for `compile_model`.
        plans: Steps whose floor is asked for.
        spec: Of a bare module.
        example: Of a bare module.
        device: Where the steps would run.
        passes: Options by pass.
        before_and_after: Called with each pass's name and the graph after it.

    Raises:
        PlanError: A plan does not fit the model.
    """
    recorder = Recorder()

    def watch(name: str, graph: GraphModule) -> None:
        recorder(name, graph)
        if before_and_after is not None:
            before_and_after(name, graph)

    compiled = compile_model(
        model,
        engine_of=_no_engine,
        spec=spec,
        example=example,
        device=device,
        passes=passes,
        before_and_after=watch,
    )
    return recorder.explanation(compiled, plans)


def operators(graph: GraphModule) -> Counter[str]:
    """How often each operator is called, such as `aten.linear.default`."""
    targets = (node.target for node in graph.graph.nodes if node.op == "call_function")
    return Counter(
        str(target)
        if isinstance(target, torch._ops.OpOverload)
        else _listing.operator_name(target)
        for target in targets
    )


def _no_engine(*_: object, **__: object) -> Any:
    raise AssertionError("an explanation has no engine")
