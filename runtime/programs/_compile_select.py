"""The select program: the decisions of a step as one compiled function of tensors.

It holds no weights and never joins the denoiser's program: a policy compiles nothing of the
model. Its key are the policies and their structural fields; their values are arguments.

On a CPU it does not pay: of the embedded model, threshold and credit took as long as without it
and LocalLeap half as long again, for 3 to 37 s of compilation on busy cores; policies that sort
rows get a program for some sizes only. It is for devices where each operator is a launch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from dllmc.runtime.select import Decisions, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.rows import Rows

    Values = Mapping[str, Mapping[str, Tensor]]

# Sizes of the examples: no two alike, nor like the widths of what policies ask for.
_DECISIONS, _ROWS = 3, 7
_RESULTS = ("committed", "replaced", "reopened", "tokens", "end", "cut")


@dataclass(frozen=True)
class _Layout:
    """The tensors of `decide` by name, and all else of its arguments."""

    names: tuple[str, ...]
    rows: Rows

    @classmethod
    def of(cls, rows: Rows, values: Values, eos_ids: Tensor) -> tuple[_Layout, list[Tensor]]:
        found = {f"rows.{name}": value for name, value in _tensors(rows).items()}
        found |= {f"extra.{name}": value for name, value in rows.extra.items()}
        found |= {f"memory.{name}": value for name, value in rows.memory.items()}
        for axis, numbers in values.items():
            found |= {f"values.{axis}/{name}": value for name, value in numbers.items()}
        found["eos_ids"] = eos_ids
        return cls(tuple(found), rows), list(found.values())

    def arguments(self, tensors: tuple[Tensor, ...]) -> tuple[Rows, Any, Tensor]:
        """The arguments of `decide`, of other tensors of the same names."""
        parts: dict[str, dict[str, Any]] = {"rows": {}, "extra": {}, "memory": {}, "values": {}}
        for name, tensor in zip(self.names[:-1], tensors[:-1], strict=True):
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        values: dict[str, dict[str, Tensor]] = {}
        for name, tensor in parts["values"].items():
            axis, _, knob = name.partition("/")
            values.setdefault(axis, {})[knob] = tensor
        rows = dataclasses.replace(
            self.rows, **parts["rows"], extra=parts["extra"], memory=parts["memory"]
        )
        return rows, _Empty(values), tensors[-1]


class _Empty(dict[str, Any]):
    """Axes whose policies have no values have an empty mapping."""

    def __missing__(self, axis: str) -> dict[str, Tensor]:
        return {}


def compile_select(
    config: DecodingConfig,
    rows: Rows,
    values: Values,
    eos_ids: Tensor,
    per_sequence: Collection[str],
) -> Callable[[Rows, Values, Tensor], Decisions] | None:
    """`decide` for the structure of `config`, compiled for any number of decisions and rows.

    Args:
        config: Whose structure counts.
        rows: An example.
        values: An example.
        eos_ids: An example.
        per_sequence: Names of the memory that is kept per sequence.

    Returns:
        The program; None where Inductor's would hold for some sizes only.
    """
    from dllmc.runtime.programs._compile_graph import compile_graph

    layout, tensors = _Layout.of(rows, values, eos_ids)
    single = len(rows.ids) == 1
    axes = {n: _axes(n, t, per_sequence) for n, t in zip(layout.names, tensors, strict=True)}
    examples = [
        _example(tensor, axes[name], single=single)
        for name, tensor in zip(layout.names, tensors, strict=True)
    ]
    kept: list[str] = []

    def flat(*given: Tensor) -> list[Tensor]:
        found = _results(decide(config, *layout.arguments(given)))
        kept[:] = found
        return list(found.values())

    graph = make_fx(flat, tracing_mode="symbolic")(*examples)
    places = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    dynamic = {
        place: tuple(a for a in axes[name] if a or not single)
        for place, name in zip(places, layout.names, strict=True)
    }
    program, conditions = compile_graph(graph, dict(zip(places, examples, strict=True)), dynamic)
    if conditions:
        return None

    def run(rows: Rows, values: Values, eos_ids: Tensor) -> Decisions:
        _, given = _Layout.of(rows, values, eos_ids)
        return _decisions(rows, dict(zip(kept, program(*given), strict=True)))

    return run


def _tensors(rows: Rows) -> dict[str, Tensor]:
    fields = {f.name: getattr(rows, f.name) for f in dataclasses.fields(rows)}
    return {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}


def _axes(name: str, tensor: Tensor, per_sequence: Collection[str]) -> tuple[int, ...]:
    """Axes that count decisions (0) and rows (1)."""
    if name == "eos_ids":
        return ()
    wide = tensor.dim() > 1 and name != "rows.counters"
    return (0, 1) if wide and name.removeprefix("memory.") not in per_sequence else (0,)


def _example(tensor: Tensor, axes: tuple[int, ...], *, single: bool) -> Tensor:
    sizes = list(tensor.shape)
    for axis in axes:
        sizes[axis] = _ROWS if axis else (1 if single else _DECISIONS)
    return tensor.new_zeros(sizes)


def _results(decisions: Decisions) -> dict[str, Tensor]:
    """Everything that was decided, by name."""
    found = {name: getattr(decisions, name) for name in _RESULTS}
    found |= {f"rows.{name}": value for name, value in _tensors(decisions.rows).items()}
    found |= {f"memory.{name}": value for name, value in decisions.rows.memory.items()}
    return {name: value for name, value in found.items() if value is not None}


def _decisions(rows: Rows, found: Mapping[str, Tensor]) -> Decisions:
    judged = {n.removeprefix("rows."): v for n, v in found.items() if n.startswith("rows.")}
    memory = {n.removeprefix("memory."): v for n, v in found.items() if n.startswith("memory.")}
    changes: dict[str, Any] = {**judged, "memory": memory}
    committed, replaced, reopened, tokens = (found[name] for name in _RESULTS[:4])
    return Decisions(
        dataclasses.replace(rows, **changes),
        committed,
        replaced,
        reopened,
        tokens,
        found.get("end"),
        found.get("cut"),
    )
