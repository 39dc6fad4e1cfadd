"""Compare a graph before and after a pass on random inputs.

Passes change the inputs and the output of the graph: tokens alone become tokens, positions,
rows and caches; logits become statistics. An observation is therefore the result in the most
reduced form that both sides can give, from a full evaluation of the same canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """Outputs of one evaluation: logits of all rows, of the head rows, or statistics."""

    logits: Tensor | None
    row_logits: Tensor | None
    statistics: tuple[Tensor, Tensor, Tensor] | None


class Probe:
    """One random canvas, evaluated by any graph of the pipeline."""

    def __init__(self, spec: DenoiserSpec, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self._spec = spec
        length = min(_LENGTH, spec.max_length)
        self._tokens = torch.randint(
            spec.vocab_size, (_BATCH, length), generator=random, dtype=torch.int64
        )
        rows = [torch.randperm(length, generator=random)[:_ROWS] for _ in range(_BATCH)]
        self._head_rows = torch.stack(rows)

    def observe(self, module: GraphModule) -> Observation:
        """Evaluate the whole canvas with `module`."""
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        values = {str(node.target): self._value(module, node) for node in inputs}
        with torch.no_grad():
            result = module(*values.values())
        while isinstance(result, list | tuple) and len(result) == 1:
            result = result[0]
        if isinstance(result, tuple):
            return Observation(None, None, result)
        if "head_rows" in values:
            return Observation(None, result, None)
        return Observation(result, None, None)

    def _value(self, module: GraphModule, node: Any) -> Tensor:
        batch, length = self._tokens.shape
        name = str(node.target)
        if "cache_shape" in node.meta:
            groups, width = node.meta["cache_shape"]
            dtype = next(iter(p.dtype for p in module.parameters() if p.is_floating_point()))
            return torch.zeros(batch, groups, length + _SCRATCH, width, dtype=dtype)
        order = torch.arange(length).expand(batch, length)
        known = {
            "tokens": self._tokens,
            "positions": order,
            "slots": order,
            "head_rows": self._head_rows,
            "key_limit": torch.full((batch,), length),
            "temperature": torch.zeros(batch),
            "seed": torch.zeros(batch, dtype=torch.int64),
            "stream": torch.arange(batch),
            "nfe": torch.zeros(batch, dtype=torch.int64),
        }
        return known[name]

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
        else:
            assert before.logits is not None and after.logits is not None
            _close(name, "logits", before.logits, after.logits)

    def _rows(self, observed: Observation) -> Tensor:
        if observed.row_logits is not None:
            return observed.row_logits
        assert observed.logits is not None
        return torch.stack([row[rows] for row, rows in zip(observed.logits, self._head_rows, strict=True)])

    def _statistics(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Statistics by another way than the kernel's: through log-sum-exp of the others."""
        allowed = logits.clone()
        allowed[..., self._spec.mask_id] = -torch.inf
        chosen, ids = allowed.max(-1)
        others = logits.scatter(-1, ids[..., None], -torch.inf)
        return ids, chosen, (others.logsumexp(-1) - chosen).exp()


def _close(name: str, what: str, old: Tensor, new: Tensor) -> None:
    scale = old.abs().amax().clamp_min(1.0)
    error = ((old - new).abs().amax() / scale).item()
    if not error <= TOLERANCE:
        raise VerificationError(
            f"pass `{name}` changed the {what} by {error:.1e} relative to their largest; "
            f"{TOLERANCE:.0e} is allowed"
        )
