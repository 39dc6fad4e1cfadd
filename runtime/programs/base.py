"""What runs a step: programs by plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import torch

from dllmc.artifact import derive
from dllmc.artifact.binaries import Input, Size
from dllmc.spec import PlanError, StepPlan, statistics_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor
    from torch.fx import GraphModule

    from dllmc.artifact import Package

Statistics = tuple["Tensor", ...]

SIZES: Final[tuple[Size, ...]] = ("batch", "rows", "head_rows", "slots")
"""Names of the sizes of a step, in the order of `sizes_of`."""

# Sizes of the examples of a dynamic program: all different, as `compile_graph` asks.
_EXAMPLE_BATCH, _EXAMPLE_ROWS, _EXAMPLE_HEAD_ROWS, _EXAMPLE_SLOTS = 3, 7, 5, 11


class Programs(ABC):
    """The programs of one package.

    Args:
        package: Whose graphs run.
    """

    execution: str
    """Name of the execution mode, part of every speed record's key."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._graphs: dict[tuple[str, ...], GraphModule] = {}

    def fit(self, plan: StepPlan) -> StepPlan:
        """The plan that will run for the sizes of `plan`; its rows may be padded."""
        return plan

    @abstractmethod
    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        """Evaluate one step; caches among `inputs` are changed in place.

        Returns candidate ids, logits and tail masses `[B, R]`, then what the plan's statistics
        ask for beyond, in the order of their names, and saliencies `[B, S]` by layer; nothing
        where the plan asks for no statistics.

        Args:
            plan: As `fit` returned it.
            inputs: By name, with the shapes of `plan`.
        """

    def specialise(self, plans: Iterable[StepPlan]) -> None:
        """Make static programs for `plans`, if they are compiled at all.

        Raises:
            PlanError: The back end has none.
        """
        del plans
        raise PlanError(f"back end `{self.execution}` has no static programs; use `inductor`")

    def compile_seconds(self, plans: Iterable[StepPlan]) -> float:
        """Seconds in which the programs that `plans` run in were compiled, by this process."""
        del plans
        return 0.0

    def slots(self, length: int) -> int:
        """Slots of caches that hold `length`, at least as many."""
        return length

    def caches(
        self,
        capacity: int,
        shapes: Mapping[str, tuple[int, int]],
        slots: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Caches `[capacity, G, slots, D]` of zeros by name: NaN would leak from masked slots."""
        return {
            name: torch.zeros(capacity, groups, slots, width, dtype=dtype, device=device)
            for name, (groups, width) in shapes.items()
        }

    def gather(self, caches: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """The caches of sequences `rows` `[B]`, to be run on; the next call may overwrite them."""
        return {name: cache.index_select(0, rows) for name, cache in caches.items()}

    def graph(self, plan: StepPlan) -> GraphModule:
        """The graph of `plan`, whatever its sizes.

        Raises:
            PlanError: It cannot be had from the graphs of the package.
        """
        key = variant(plan)
        if key not in self._graphs:
            self._graphs[key] = derive(self.package.graphs, plan)
        return self._graphs[key]


def variant(plan: StepPlan) -> tuple[str, ...]:
    """What tells apart the graphs of two plans; sizes do not."""
    return plan.statistics, plan.mask, plan.inputs, "saliency" if plan.saliency else ""


def padded(plan: StepPlan) -> StepPlan:
    """`plan` with two rows at least: a single one would be a size of its own to Inductor."""
    least = {"rows": max(plan.rows, 2), "head_rows": max(plan.head_rows, 2)}
    if plan.statistics == "none":
        least["head_rows"] = 0
    return plan.model_copy(update=least)


def dynamic_axes(graph: GraphModule, plan: StepPlan) -> dict[str, tuple[int, ...]]:
    """Axes of every input that differ between plans: batch, rows and slots."""
    caches = cache_shapes(graph)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    matrices = {"tokens", "positions", "slots", "head_rows", "key_positions", "key_tokens"}
    matrices |= {"gather_ids", "mixture_ids", "mixture_weights", "head_weights"}
    matrices |= {"hidden", "offered"}
    if plan.mask.startswith("row_limit"):
        matrices.add("key_limit")
    batch = () if plan.batch == 1 else (0,)
    axes = {name: (*batch, 1) if name in matrices else batch for name in names}
    if "key_mask" in axes:
        axes["key_mask"] = (*batch, 1, 2)
    return axes | dict.fromkeys(caches, (*batch, 2))


def sizes_of(plan: StepPlan) -> tuple[int, int, int, int]:
    """Batch, rows, head rows and slots of a step, those of scratch among them."""
    return plan.batch, plan.rows, plan.head_rows, plan.slots + plan.scratch


def described(
    example: Tensor, axes: Iterable[int], plan: StepPlan, fixed: Mapping[str, int] | None = None
) -> Input:
    """An input like `example`, whose dynamic axes have the sizes of `plan` by name.

    Args:
        example: Of the shapes of `plan`, whose sizes all differ.
        axes: That are dynamic.
        plan: The sizes.
        fixed: Sizes by name that stay numbers.
    """
    fixed = fixed or {}
    kinds = {n: fixed.get(str(s), s) for n, s in zip(sizes_of(plan), SIZES, strict=True)}
    dynamic = set(axes)
    sizes = tuple(kinds[n] if axis in dynamic else n for axis, n in enumerate(example.shape))
    return Input(dtype=str(example.dtype).removeprefix("torch."), sizes=sizes)


def example_of(plan: StepPlan) -> StepPlan:
    """A plan like `plan` whose sizes all differ, as dynamic programs are compiled with."""
    return plan.model_copy(
        update={
            "batch": 1 if plan.batch == 1 else _EXAMPLE_BATCH,
            "rows": _EXAMPLE_ROWS,
            "head_rows": _EXAMPLE_HEAD_ROWS if plan.head_rows else 0,
            "slots": _EXAMPLE_SLOTS,
        }
    )


def arguments(graph: GraphModule, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """`inputs` in the order of the graph's placeholders."""
    names = (str(node.target) for node in graph.graph.nodes if node.op == "placeholder")
    return [inputs[name] for name in names]


def cache_shapes(graph: GraphModule) -> dict[str, tuple[int, int]]:
    """Groups and width of a slot for every cache input, by name."""
    return {
        str(node.target): node.meta["cache_shape"]
        for node in graph.graph.nodes
        if "cache_shape" in node.meta
    }


def example_inputs(graph: GraphModule, plan: StepPlan, device: torch.device) -> dict[str, Tensor]:
    """Inputs of the shapes of `plan`, valid to run."""
    batch, rows, heads = plan.batch, plan.rows, plan.head_rows
    # Clones: Dynamo would compile for views, which the real inputs are not.
    order = torch.arange(rows, device=device).expand(batch, rows).clone()
    count = torch.zeros(batch, dtype=torch.int64, device=device)
    inputs = {
        "tokens": torch.zeros_like(order),
        "positions": order,
        "slots": order % plan.slots,
        "head_rows": (torch.arange(heads, device=device) % rows).expand(batch, heads).clone(),
        "key_limit": count + min(rows, plan.slots),
        "temperature": torch.zeros(batch, device=device),
        "seed": count.clone(),
        "stream": count.clone(),
        "nfe": count.clone(),
    }
    dtype = getattr(torch, plan.dtype)
    if plan.mask.startswith("row_limit"):
        inputs["key_limit"] = inputs["key_limit"][:, None].expand(batch, rows).clone()
    _, extras = statistics_parts(plan.statistics)
    inputs["gather_ids"] = count[:, None, None].expand(batch, heads, extras.get("gather", 1))
    inputs["gather_ids"] = inputs["gather_ids"].clone()
    mixed = int(plan.inputs.removeprefix("mixture") or 1) if plan.inputs != "tokens" else 1
    inputs["mixture_ids"] = torch.zeros(batch, rows, mixed, dtype=torch.int64, device=device)
    inputs["mixture_weights"] = torch.zeros(batch, rows, mixed, device=device)
    for node in graph.graph.nodes:
        if "row_width" in node.meta:
            wide = (batch, rows, node.meta["row_width"])
            inputs[str(node.target)] = torch.zeros(wide, device=device)
    inputs["offered"] = torch.ones(batch, rows, dtype=torch.bool, device=device)
    inputs["head_weights"] = torch.zeros(batch, heads, device=device)
    seen = (batch, rows, plan.slots + plan.scratch)
    inputs["key_mask"] = torch.ones(seen, dtype=torch.bool, device=device)
    held = torch.arange(plan.slots + plan.scratch, device=device)
    inputs["key_positions"] = held.expand(batch, len(held)).clone()
    inputs["key_tokens"] = torch.zeros_like(inputs["key_positions"])
    for name, (groups, width) in cache_shapes(graph).items():
        shape = (batch, groups, plan.slots + plan.scratch, width)
        inputs[name] = torch.zeros(shape, dtype=dtype, device=device)
    return inputs
