"""What runs a step: programs by plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from dllmc.spec import PlanError, StepPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.fx import GraphModule

    from dllmc.artifact import Package

Statistics = tuple["Tensor", ...]


class Programs(ABC):
    """The programs of one package.

    Args:
        package: Whose graphs run.
    """

    execution: str
    """Name of the execution mode, part of every speed record's key."""

    def __init__(self, package: Package) -> None:
        self.package = package

    def fit(self, plan: StepPlan) -> StepPlan:
        """The plan that will run for the sizes of `plan`; its rows may be padded."""
        return plan

    @abstractmethod
    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        """Evaluate one step; caches among `inputs` are changed in place.

        Returns candidate ids, logits and tail masses `[B, R]`, or nothing where the plan asks
        for no statistics.

        Args:
            plan: As `fit` returned it.
            inputs: By name, with the shapes of `plan`.
        """

    def graph(self, statistics: str) -> GraphModule:
        """The graph that returns `statistics`.

        Raises:
            PlanError: The package has none.
        """
        if statistics not in self.package.graphs:
            known = ", ".join(self.package.graphs)
            raise PlanError(f"the model was compiled for {known} and not for `{statistics}`")
        return self.package.graphs[statistics]


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
    if plan.mask == "row_limit":
        inputs["key_limit"] = inputs["key_limit"][:, None].expand(batch, rows).clone()
    held = torch.arange(plan.slots + plan.scratch, device=device)
    inputs["key_positions"] = held.expand(batch, len(held)).clone()
    inputs["key_tokens"] = torch.zeros_like(inputs["key_positions"])
    for name, (groups, width) in cache_shapes(graph).items():
        shape = (batch, groups, plan.slots + plan.scratch, width)
        inputs[name] = torch.zeros(shape, dtype=dtype, device=device)
    return inputs
