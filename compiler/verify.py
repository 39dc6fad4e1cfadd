"""Compare a graph, in float64, before and after a pass on random inputs.

Passes change the inputs and the output of the graph: tokens alone become tokens, positions,
rows and caches; logits become statistics. An observation is therefore the result in the most
reduced form that both sides can give, of the same canvas. What a graph takes beside the tokens is
made hard: rows stand in another order than their positions, slots in yet another, and through a
cache only few rows are evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dllmc.spec import VerificationError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

    from dllmc.spec import DenoiserSpec

# Of float64 reorderings over a few thousand terms; a wrong graph is off by far more.
TOLERANCE = 1e-9
_BATCH, _LENGTH, _ROWS, _SCRATCH = 3, 11, 5, 1


@dataclass(frozen=True, slots=True)
class Observation:
    """Outputs of one evaluation: logits of all positions, of the head rows, or statistics.

    Of a graph with caches, also what it wrote into them.
    """

    logits: Tensor | None
    row_logits: Tensor | None
    statistics: tuple[Tensor, ...] | None
    caches: dict[str, Tensor] = field(default_factory=dict)


class Probe:
    """One random canvas, evaluated by any graph of the pipeline.

    Args:
        spec: Of the denoiser.
        device: Where the graphs run.
        seed: Of the canvas.
    """

    def __init__(
        self, spec: DenoiserSpec, device: torch.device | str = "cpu", seed: int = 0
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        # Rows of more than one block, where there are blocks.
        length = min(max(_LENGTH, (spec.block_length or 0) + 5), spec.max_length)

        def orders() -> Tensor:
            each = [torch.randperm(length, generator=random) for _ in range(_BATCH)]
            return torch.stack(each).to(device)

        self._spec = spec
        self._tokens = torch.randint(
            spec.vocab_size, (_BATCH, length), generator=random, dtype=torch.int64
        ).to(device)
        self._order, self._slots = orders(), orders()
        self._head_positions = orders()[:, :_ROWS]

    def observe(self, module: GraphModule) -> Observation:
        """Evaluate the canvas with `module`."""
        names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
        if "positions" not in names:
            return Observation(_single(_run(module, [self._tokens])), None, None)
        caches = self._caches(module)
        result = self._evaluate(module, self._order, caches)
        if caches:
            result = self._evaluate(module, self._head_positions, caches)
        if isinstance(result, tuple):
            return Observation(None, None, result or None, caches)
        if "head_rows" in names:
            return Observation(None, result, None)
        back = self._order.argsort(dim=-1)[..., None].expand_as(result)
        return Observation(result.gather(1, back), None, None)

    def _caches(self, module: GraphModule) -> dict[str, Tensor]:
        batch, length = self._tokens.shape
        found = {}
        for node in module.graph.nodes:
            if "cache_shape" in node.meta:
                groups, width = node.meta["cache_shape"]
                shape = (batch, groups, length + _SCRATCH, width)
                device = self._tokens.device
                found[str(node.target)] = torch.zeros(shape, dtype=torch.float64, device=device)
        return found

    def _evaluate(
        self, module: GraphModule, rows: Tensor, caches: dict[str, Tensor]
    ) -> Tensor | tuple[Tensor, ...]:
        """Run `module` at the positions `rows` `[B, W]`."""
        batch = self._tokens.shape[0]
        zeros = torch.zeros(batch, dtype=torch.int64, device=rows.device)
        matches = rows[:, None] == self._head_positions[..., None]
        known = {
            "tokens": self._tokens.gather(1, rows),
            "positions": rows,
            "slots": self._slots.gather(1, rows),
            "head_rows": matches.int().argmax(dim=-1),
            "key_limit": self._limits(rows),
            "key_positions": self._held(),
            "key_tokens": self._held_tokens(),
            "temperature": zeros.to(torch.float32),
            "seed": zeros,
            "stream": zeros,
            "nfe": zeros,
        } | caches
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        return _run(module, [known[str(node.target)] for node in inputs])

    def _limits(self, rows: Tensor) -> Tensor:
        """What each sequence, or each row of block-causal attention, sees."""
        batch, length = self._tokens.shape
        if self._spec.attention == "full":
            return torch.full((batch,), length, device=rows.device)
        if self._spec.blocks_from == "response":
            return torch.full_like(rows, length)
        block = self._spec.attention_block or length
        return (rows // block + 1) * block

    def _held(self) -> Tensor:
        """The position in each slot; scratch slots come after every limit."""
        scratch = torch.full_like(self._slots[:, :_SCRATCH], torch.iinfo(torch.int64).max)
        return torch.cat((self._slots.argsort(dim=-1), scratch), dim=-1)

    def _held_tokens(self) -> Tensor:
        found = self._tokens.gather(1, self._slots.argsort(dim=-1))
        return torch.cat((found, torch.zeros_like(found[:, :_SCRATCH])), dim=-1)

    def compare(self, name: str, before: Observation, after: Observation) -> None:
        """Raise `VerificationError` if pass `name` changed what was observed."""
        if after.statistics is not None:
            expected = before.statistics or self._statistics(self._rows(before))
            ids, *numbers = zip(expected, after.statistics, strict=True)
            if not torch.equal(*ids):
                raise VerificationError(f"pass `{name}` changed candidate tokens")
            for what, (old, new) in zip(("logits", "tail masses"), numbers, strict=True):
                _close(name, what, old, new)
        elif after.row_logits is not None:
            _close(name, "logits", self._rows(before), after.row_logits)
        elif after.caches:
            for cache, written in after.caches.items():
                _close(name, cache, before.caches[cache], written)
        else:
            assert before.logits is not None
            assert after.logits is not None
            _close(name, "logits", before.logits, after.logits)

    def _rows(self, observed: Observation) -> Tensor:
        if observed.row_logits is not None:
            return observed.row_logits
        assert observed.logits is not None
        places = self._head_positions[..., None].expand(-1, -1, observed.logits.shape[-1])
        return observed.logits.gather(1, places)

    def _statistics(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Statistics by another way than the kernel's: through log-sum-exp of the others."""
        allowed = logits.clone()
        allowed[..., self._spec.mask_id] = -torch.inf
        chosen, ids = allowed.max(-1)
        others = logits.scatter(-1, ids[..., None], -torch.inf)
        return ids, chosen, (others.logsumexp(-1) - chosen).exp()


def _run(module: GraphModule, inputs: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    with torch.no_grad():
        result: Tensor | tuple[Tensor, ...] = module(*inputs)
    while isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    return result


def _single(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    assert isinstance(result, torch.Tensor)
    return result


def _close(name: str, what: str, old: Tensor, new: Tensor) -> None:
    scale = old.abs().amax().clamp_min(1.0)
    error = ((old - new).abs().amax() / scale).item() if old.shape == new.shape else torch.inf
    if not error <= TOLERANCE:
        raise VerificationError(
            f"pass `{name}` changed the {what} by {error:.1e} relative to their largest; "
            f"{TOLERANCE:.0e} is allowed"
        )
