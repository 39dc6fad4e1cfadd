"""The language-model head and the statistics that decoding needs, without the logits.

Per row: the candidate token, its logit, and its tail mass, the sum over all other tokens of
exp(logit - logit of the candidate). Probability is 1 / (1 + tail mass). The candidate is never
the mask token, whose weight stays in the tail. Summed without the candidate's own term, so that
a float32 still tells apart rows whose probability would round to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import ANYWHERE, canonical, define, implement, implementation
from dllmc.kernels.noise import gumbel
from dllmc.kernels.rms_norm import HALF

if TYPE_CHECKING:
    from torch import Tensor


GREEDY = (
    "head_statistics(Tensor x, Tensor weight, Tensor? bias, int mask_id)"
    " -> (Tensor, Tensor, Tensor)"
)
SAMPLED = (
    "sampled_head_statistics(Tensor x, Tensor weight, Tensor? bias, int mask_id, "
    "Tensor temperature, Tensor seed, Tensor stream, Tensor positions, Tensor nfe)"
    " -> (Tensor, Tensor, Tensor)"
)


@define(GREEDY)
def head_statistics(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Arg-max, its logit and its tail mass.

    Args:
        x: `[B, R, D]` hidden states.
        weight: `[V, D]`.
        bias: `[V]` or None.
        mask_id: Token that is never the candidate.

    Returns:
        Ids int64, logits and tail masses in float32 or better, each `[B, R]`.
    """
    return greedy(F.linear(x, weight, bias), mask_id)


@define(SAMPLED)
def sampled_head_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask_id: int,
    temperature: Tensor,
    seed: Tensor,
    stream: Tensor,
    positions: Tensor,
    nfe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a candidate drawn at a temperature by the Gumbel-max trick.

    Logit and tail mass are those of the model, without noise: confidence is the candidate's own
    probability, as in LLaDA's `generate`.

    Args:
        x: `[B, R, D]` hidden states.
        weight: `[V, D]`.
        bias: `[V]` or None.
        mask_id: Token that is never the candidate.
        temperature: `[B]` float32, 0 for the arg-max.
        seed: `[B]` int64.
        stream: `[B]` int64.
        positions: `[B, R]` int64, canvas positions of the rows.
        nfe: `[B]` int64.
    """
    counters = (seed, stream, positions, nfe)
    return sampled(F.linear(x, weight, bias), mask_id, temperature, counters)


@implement("head_statistics", "onednn", GREEDY)
def head_statistics_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`head_statistics` with the packed product of `dllmc.linear.onednn`."""
    return greedy(implementation("linear", "onednn")(x, weight, bias), mask_id)


@implement("sampled_head_statistics", "onednn", SAMPLED)
def sampled_head_statistics_onednn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask_id: int,
    temperature: Tensor,
    seed: Tensor,
    stream: Tensor,
    positions: Tensor,
    nfe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sampled_head_statistics` with the packed product of `dllmc.linear.onednn`."""
    logits = implementation("linear", "onednn")(x, weight, bias)
    return sampled(logits, mask_id, temperature, (seed, stream, positions, nfe))


@implement("head_statistics", "measured", GREEDY)
def head_statistics_measured(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`head_statistics` of `linear.measured`, its logits read once by `statistics.triton`."""
    found: tuple[Tensor, Tensor, Tensor]
    found = implementation("statistics", "triton")(_product(x, weight, bias), mask_id)
    return found


@implement("sampled_head_statistics", "measured", SAMPLED)
def sampled_head_statistics_measured(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask_id: int,
    temperature: Tensor,
    seed: Tensor,
    stream: Tensor,
    positions: Tensor,
    nfe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sampled_head_statistics` of `linear.measured` and `sampled_statistics.triton`."""
    logits, counters = _product(x, weight, bias), (seed, stream, positions, nfe)
    found: tuple[Tensor, Tensor, Tensor]
    found = implementation("sampled_statistics", "triton")(logits, mask_id, temperature, *counters)
    return found


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits: Tensor = implementation("linear", "measured")(x, weight, bias)
    return logits


def of_rows(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of rows `x` `[B, R, ...]`, as far as compilers must know."""
    wide = torch.promote_types(x.dtype, torch.float32)
    ids = x.new_empty(x.shape[:2], dtype=torch.int64)
    chosen = x.new_empty(x.shape[:2], dtype=wide)
    return ids, chosen, torch.empty_like(chosen)


@implement("head_statistics", "triton", GREEDY, opaque_on=ANYWHERE, fake=of_rows)
def head_statistics_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`head_statistics` without writing logits; see `_triton/head_statistics.py`."""
    if x.dtype == torch.float64:
        return greedy(F.linear(x, weight, bias), mask_id)
    from dllmc.kernels._triton.head_statistics import launch

    return launch(x, weight, bias, mask_id)


@implement("sampled_head_statistics", "triton", SAMPLED, opaque_on=ANYWHERE, fake=of_rows)
def sampled_head_statistics_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask_id: int,
    temperature: Tensor,
    seed: Tensor,
    stream: Tensor,
    positions: Tensor,
    nfe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sampled_head_statistics` without writing logits; see `_triton/head_statistics.py`."""
    counters = (seed, stream, positions, nfe)
    if x.dtype == torch.float64:
        return sampled(F.linear(x, weight, bias), mask_id, temperature, counters)
    from dllmc.kernels._triton.head_statistics import launch

    return launch(x, weight, bias, mask_id, temperature, canonical("row_hash")(*counters))


def greedy(logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate, logit and tail mass of each row of `[B, R, V]`."""
    logits = logits.float() if logits.dtype in HALF else logits
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    allowed = torch.where(tokens == mask_id, -torch.inf, logits)
    ids, chosen = allowed.argmax(-1), allowed.amax(-1)
    return ids, chosen, _tail(logits, ids, chosen, tokens)


def sampled(
    logits: Tensor, mask_id: int, temperature: Tensor, counters: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a drawn candidate; `counters` are seed, stream, positions and NFE."""
    logits = logits.float() if logits.dtype in HALF else logits
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    seed, stream, positions, nfe = counters
    noise = gumbel(seed, stream, positions, nfe, logits.shape[-1])
    noised = logits + temperature[:, None, None] * noise
    ids = torch.where(tokens == mask_id, -torch.inf, noised).argmax(-1)
    chosen = torch.gather(logits, -1, ids[..., None]).squeeze(-1)
    return ids, chosen, _tail(logits, ids, chosen, tokens)


def _tail(logits: Tensor, ids: Tensor, chosen: Tensor, tokens: Tensor) -> Tensor:
    weights = torch.exp(logits - chosen[..., None])
    return torch.where(tokens == ids[..., None], 0.0, weights).sum(-1)
