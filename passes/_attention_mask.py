"""What the mask or bias of an attention call means, found by evaluating it.

A mask that follows from the canvas length alone is one of these: nothing, since it hides nothing;
block-causal, when it becomes a limit per row; causal, which no denoiser has; or a table by query
and key position, such as ALiBi.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.passes._graph import aten, is_call, value_of, where
from dllmc.passes._tables import evaluate
from dllmc.spec import NotADenoiserError, NotPositionWiseError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from dllmc.spec import DenoiserSpec

# Positions up to which a mask is evaluated whole; of 8,192 that is 64 M entries, 0.1 s.
_LONGEST = 8192
# Entries of a bias table that is kept as it is; 256 MiB in float32.
_LARGEST = 2**26
# These take no more than a form from their argument.
_TAKES_A_FORM = (
    aten.sym_size.int,
    aten.ones_like.default,
    aten.zeros_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.new_full.default,
)
# Odd and coprime, and longer than a block of the published models.
_LENGTHS = (7, 11, 101)


@dataclass(frozen=True, slots=True)
class Mask:
    """What attention sees.

    Attributes:
        block_length: Of block-causal attention, or None.
        bias: As `dllmc.attention` takes it, or None.
    """

    block_length: int | None = None
    bias: Tensor | None = None


def understand(module: GraphModule, site: Node, mask: Node, spec: DenoiserSpec) -> Mask:
    """Say what `mask`, which follows from the sizes of the input alone, does at `site`.

    Raises:
        NotADenoiserError: It is causal, and the model no auxiliary.
        NotPositionWiseError: It has no meaning by query and key position.
    """
    length = min(spec.max_length, _LONGEST)
    values = _additive(module, site, mask, length)
    for shorter in {min(shorter, length) for shorter in _LENGTHS}:
        if not torch.equal(_additive(module, site, mask, shorter), values[:, :shorter, :shorter]):
            raise NotPositionWiseError(
                f"the mask of {where(site)} changes with the canvas length; a partial evaluation "
                "has no single length"
            )
    _check_batch(module, site, mask)
    if not values.any():
        return Mask()
    hidden = values < -1e4
    if hidden.any() and not values.masked_fill(hidden, 0.0).any():
        block = _block_length(hidden)
        if block == 1 and spec.attention != "causal":
            raise NotADenoiserError(
                f"{where(site)} has a causal mask; a denoiser's attention sees both directions. "
                "Only an auxiliary model (role='auxiliary') may be causal"
            )
        if block is not None:
            return Mask(block_length=block)
    return Mask(bias=_table(site, values, spec))


def _additive(module: GraphModule, site: Node, mask: Node, length: int) -> Tensor:
    """The mask of one sequence as numbers to add, `[H or 1, length, length]`."""
    value = evaluate(module, mask, 1, length)
    if value.dtype == torch.bool:
        value = torch.zeros(value.shape, device=value.device).masked_fill(~value, -torch.inf)
    while value.dim() < 4:
        value = value[None]
    heads = int(value_of(site).shape[1])
    if value.shape[0] != 1 or value.shape[1] not in (1, heads):
        raise NotPositionWiseError(
            f"the mask of {where(site)} has shape {list(value.shape)}; it must broadcast to "
            f"[batch, {heads}, positions, positions]"
        )
    return value[0].expand(-1, length, length)


def _check_batch(module: GraphModule, site: Node, mask: Node) -> None:
    alone, together = (evaluate(module, mask, batch, _LENGTHS[0]) for batch in (1, 3))
    if not torch.equal(together, alone.expand_as(together)):
        raise NotPositionWiseError(
            f"the mask of {where(site)} differs between the sequences of a batch; a sequence must "
            "be computed as it is alone"
        )


def _block_length(hidden: Tensor) -> int | None:
    """B if a row sees what comes before the end of its block of B, and nothing else."""
    length = hidden.shape[-1]
    seen = length - int(hidden[0, 0].sum())
    order = torch.arange(length, device=hidden.device)
    expected = order >= ((order // seen + 1) * seen)[:, None] if seen else hidden[0]
    return seen if seen and bool((hidden == expected).all()) else None


def _table(site: Node, values: Tensor, spec: DenoiserSpec) -> Tensor:
    length = values.shape[-1]
    if length < spec.max_length:
        raise NotPositionWiseError(
            f"the bias of {where(site)} is a table of {spec.max_length} x {spec.max_length} "
            f"positions, more than {_LONGEST} x {_LONGEST}; set the spec's `max_length` lower"
        )
    by_distance = torch.cat((values[:, 0].flip(-1), values[:, 1:, 0]), dim=-1)
    order = torch.arange(length, device=values.device)
    if torch.equal(by_distance[:, order[:, None] - order + length - 1], values):
        return by_distance.clone()
    if values.numel() > _LARGEST:
        raise NotPositionWiseError(
            f"the bias of {where(site)} is a table of {values.numel():,} numbers; set the spec's "
            "`max_length` lower"
        )
    return values.contiguous()


def follows_from_tokens(mask: Node) -> bool:
    """Whether the mask depends on the tokens themselves, and not on how many there are."""
    seen: set[Node] = set()
    waiting = [mask]
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder":
            return True
        if node not in seen and not is_call(node, *_TAKES_A_FORM):
            waiting += node.all_input_nodes
        seen.add(node)
    return False
