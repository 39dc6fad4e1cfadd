"""The least that a step must cost, counted from its lowered graph."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses import FakeTensorMode
from torch.fx import Interpreter

from dllmc.kernels import canonical_names, implementation, implementations
from dllmc.spec import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from dllmc.artifact import Package
    from dllmc.spec import StepPlan

_HEADS = ("head_statistics", "sampled_head_statistics")


@dataclass(frozen=True, slots=True)
class Floor:
    """The least work of one step, counted from its lowered graph.

    Attributes:
        plan: Of the step.
        products: Linear products as (rows, input width, output width), and how many of each; those
            of a layer's experts together, with a row per expert that a row goes to.
        linear_flops: Of these: 2 x rows x widths.
        attention_flops: Of the scores and of what they weigh, over all slots.
        parameter_bytes: Weights read, each once; of an embedding the rows that are looked up, of
            experts as many as the rows can go to.
        cache_bytes: Keys and values read.
    """

    plan: StepPlan
    products: Mapping[tuple[int, int, int], int]
    linear_flops: int
    attention_flops: int
    parameter_bytes: int
    cache_bytes: int

    @property
    def flops(self) -> int:
        return self.linear_flops + self.attention_flops

    @property
    def bytes(self) -> int:
        return self.parameter_bytes + self.cache_bytes

    def seconds(self, *, bandwidth: float, rate: float) -> float:
        """The roofline floor: reading at `bandwidth` bytes/s or computing at `rate` FLOP/s.

        Whichever takes longer.
        """
        return max(self.bytes / bandwidth, self.flops / rate)


def floor(package: Package, plan: StepPlan) -> Floor:
    """The least work of a step of `plan`.

    Nothing is computed: the lowered graph runs on shapes alone.

    Raises:
        PlanError: The package has no graph for the plan's statistics, or another dtype.
    """
    if plan.statistics not in package.graphs:
        raise PlanError(
            f"`statistics`={plan.statistics!r} is not among those of the model: "
            f"{', '.join(package.graphs)}"
        )
    if plan.dtype != package.dtype:
        raise PlanError(f"`dtype`={plan.dtype!r} is not that of the model, {package.dtype!r}")
    limited = package.spec.attention != "full"
    plan = plan.model_copy(update={"mask": "row_limit" if limited else "limit"})
    counter = _Counter(package.graphs[plan.statistics], plan)
    counter.count()
    linear = sum(2 * math.prod(sizes) * times for sizes, times in counter.products.items())
    return Floor(
        plan=plan,
        products=dict(counter.products),
        linear_flops=linear,
        attention_flops=counter.attention_flops,
        parameter_bytes=sum(counter.read.values()),
        cache_bytes=counter.cache_bytes,
    )


class _Counter(Interpreter):
    """Runs a step on fake tensors and counts products and what is read."""

    def __init__(self, graph: GraphModule, plan: StepPlan) -> None:
        super().__init__(graph)
        self._plan = plan
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._linear = _overloads("linear") | {torch.ops.aten.linear.default}
        self._heads = _overloads(*_HEADS)
        self._attention = _overloads("cached_attention")
        self._experts = _overloads("experts")
        self.products: Counter[tuple[int, int, int]] = Counter()
        self.read: dict[str, int] = {}
        self.attention_flops = 0
        self.cache_bytes = 0

    def count(self) -> None:
        with self._mode, torch.no_grad():
            self.run(*(self._input(n) for n in self.graph.nodes if n.op == "placeholder"))

    def _input(self, node: Node) -> Tensor:
        plan, name = self._plan, str(node.target)
        if "cache_shape" in node.meta:
            groups, width = node.meta["cache_shape"]
            shape = (plan.batch, groups, plan.slots + plan.scratch, width)
            return torch.empty(shape, dtype=getattr(torch, plan.dtype))
        if name in ("key_positions", "key_tokens"):
            return torch.empty(plan.batch, plan.slots + plan.scratch, dtype=torch.int64)
        by_row = name == "key_limit" and plan.mask == "row_limit"
        if by_row or name in ("tokens", "positions", "slots"):
            return torch.empty(plan.batch, plan.rows, dtype=torch.int64)
        if name == "head_rows":
            return torch.empty(plan.batch, plan.head_rows, dtype=torch.int64)
        dtype = torch.float32 if name == "temperature" else torch.int64
        return torch.empty(plan.batch, dtype=dtype)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._mode.from_tensor(super().get_attr(target, args, kwargs))

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.op != "call_function":
            return result
        if n.target in self._linear | self._heads:
            x, weight = (self.env[argument] for argument in n.args[:2])  # type: ignore[index]
            self.products[x.numel() // x.shape[-1], x.shape[-1], weight.shape[0]] += 1
        elif n.target in self._attention:
            self._count_attention(*(self.env[argument] for argument in n.args[:5]))  # type: ignore[index]
        elif n.target in self._experts:
            x, ids, _, gate_up, down = (self.env[argument] for argument in n.args[:5])  # type: ignore[index]
            self.products[ids.numel(), x.shape[-1], gate_up.shape[1]] += 1
            self.products[ids.numel(), down.shape[2], down.shape[1]] += 1
        self._count_reading(n, result)
        return result

    def _count_attention(self, q: Tensor, _: Tensor, v: Tensor, *caches: Tensor) -> None:
        batch, heads, rows, width = q.shape
        slots = self._plan.slots
        self.attention_flops += 2 * batch * heads * rows * slots * (width + v.shape[3])
        for cache in caches:
            groups, width = cache.shape[1], cache.shape[3]
            self.cache_bytes += batch * groups * slots * width * cache.element_size()

    def _count_reading(self, n: Node, result: Any) -> None:
        looks_up = n.target in (torch.ops.aten.embedding.default, torch.ops.aten.index.Tensor)
        for source in n.all_input_nodes:
            if source.op != "get_attr":
                continue
            tensor = result if looks_up else self.env[source]
            size = tensor.numel() * tensor.element_size()
            if n.target in self._experts:
                ids = self.env[n.args[1]]  # type: ignore[index]
                size = size * min(tensor.shape[0], ids.numel()) // tensor.shape[0]
            # Read twice, such as a tied embedding: what is read most counts, once.
            self.read[str(source.target)] = max(self.read.get(str(source.target), 0), size)


def _overloads(*names: str) -> set[Any]:
    assert set(names) <= set(canonical_names())
    return {implementation(name, which) for name in names for which in implementations(name)}
