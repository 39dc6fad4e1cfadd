"""The statistics that decoding needs, of logits that are more than a linear head's.

For heads whose logits are scaled, soft-capped, cut to the vocabulary or computed otherwise; see
`head_statistics.py` for what the numbers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels._library import ANYWHERE, canonical, define, implement
from dllmc.kernels.head_statistics import greedy, of_rows, sampled

if TYPE_CHECKING:
    from torch import Tensor

_GREEDY = "statistics(Tensor logits, int mask_id) -> (Tensor, Tensor, Tensor)"
_SAMPLED = (
    "sampled_statistics(Tensor logits, int mask_id, Tensor temperature, Tensor seed, "
    "Tensor stream, Tensor positions, Tensor nfe) -> (Tensor, Tensor, Tensor)"
)


@define(_GREEDY)
def statistics(logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Arg-max of `[B, R, V]`, its logit and its tail mass.

    Args:
        logits: `[B, R, V]`.
        mask_id: Token that is never the candidate.

    Returns:
        Ids int64, logits and tail masses in float32 or better, each `[B, R]`.
    """
    return greedy(logits, mask_id)


@define(_SAMPLED)
def sampled_statistics(
    logits: Tensor,
    mask_id: int,
    temperature: Tensor,
    seed: Tensor,
    stream: Tensor,
    positions: Tensor,
    nfe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a candidate drawn at a temperature, as `sampled_head_statistics` draws it.

    Args:
        logits: `[B, R, V]`.
        mask_id: Token that is never the candidate.
        temperature: `[B]` float32, 0 for the arg-max.
        seed: `[B]` int64.
        stream: `[B]` int64.
        positions: `[B, R]` int64, canvas positions of the rows.
        nfe: `[B]` int64.
    """
    return sampled(logits, mask_id, temperature, (seed, stream, positions, nfe))


@implement("statistics", "triton", _GREEDY, opaque_on=ANYWHERE, fake=of_rows)
def statistics_triton(logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """`statistics` in one pass over the logits; see `_triton/statistics.py`."""
    from dllmc.kernels._triton.statistics import launch

    return launch(logits, mask_id)


@implement("sampled_statistics", "triton", _SAMPLED, opaque_on=ANYWHERE, fake=of_rows)
def sampled_statistics_triton(
    logits: Tensor,
    mask_id: int,
    temperature: Tensor,
    seed: Tensor,
    stream: Tensor,
    positions: Tensor,
    nfe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sampled_statistics` in one pass over the logits; see `_triton/statistics.py`."""
    from dllmc.kernels._triton.statistics import launch

    hashes = canonical("row_hash")(seed, stream, positions, nfe)
    return launch(logits, mask_id, temperature, hashes)
