"""A package on another device than it was compiled for."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from dllmc.artifact import weights_of
from dllmc.kernels import default_implementations, implementation
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dllmc.artifact import Package


def device_of(package: Package) -> torch.device:
    """Where the weights of `package` are."""
    return next(iter(weights_of(*package.graphs.values()).values())).device


def placed(package: Package, device: torch.device) -> Package:
    """`package` with its weights on `device`, and what is fastest there for every operator.

    The one that is given is left as it is; where it is on `device` already it is the result.

    Raises:
        UsageError: There is no such device here.
    """
    if _same(device_of(package), device):
        return package
    _check(device)
    return lowered_for(package, device)


def lowered_for(package: Package, device: torch.device) -> Package:
    """As `placed`, also where the weights are on `device` already."""
    chosen = default_implementations(device, getattr(torch, package.dtype))
    # Several graphs read one weight, which must stay one.
    moved: dict[tuple[object, ...], Tensor] = {}

    def move(weight: Tensor) -> Tensor:
        key = weight.data_ptr(), weight.shape, weight.stride(), weight.dtype
        if key not in moved:
            moved[key] = weight.to(device)
        return moved[key]

    graphs = {name: _moved(graph, chosen, move) for name, graph in package.graphs.items()}
    return dataclasses.replace(package, graphs=graphs)


def _moved(
    graph: GraphModule, chosen: dict[str, str], move: Callable[[Tensor], Tensor]
) -> GraphModule:
    constants: dict[str, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value: Any = graph
            for part in str(node.target).split("."):
                value = getattr(value, part)
            constants[str(node.target)] = move(value.detach())
    module = GraphModule(constants, copy.deepcopy(graph.graph))
    for node in module.graph.nodes:
        if getattr(node.target, "namespace", "") == "dllmc":
            name = node.target._opname
            node.target = implementation(name, chosen.get(name, "torch"))
    module.recompile()
    return module


def _check(device: torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device `{device}` cannot be used ({reason}); choose cpu") from error


def _same(one: torch.device, other: torch.device) -> bool:
    """Whether they are one device; without a number it is the current one."""
    if one.type != other.type:
        return False
    if one.type != "cuda":
        return True
    # torch's annotations say that there is always a number.
    numbers: list[int | None] = [one.index, other.index]
    current = torch.cuda.current_device()
    return len({current if number is None else number for number in numbers}) == 1
