"""The embedding of a row as a mixture of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import define

if TYPE_CHECKING:
    from torch import Tensor


@define("mixture(Tensor weight, Tensor ids, Tensor weights) -> Tensor")
def mixture(weight: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of embeddings.

    Args:
        weight: `[V, D]`.
        ids: `[B, W, k]` int64.
        weights: `[B, W, k]`, of each token in the sum.

    Returns:
        `[B, W, D]` in the dtype of `weight`.
    """
    embedded = F.embedding(ids, weight)
    # A sum over k of products, not a matrix product: a single token of weight 1 stays as it is.
    return (embedded * weights[..., None].to(weight.dtype)).sum(-2)


@define("saliency(Tensor q, Tensor keys, Tensor weights) -> Tensor")
def saliency(q: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """Scores of queries with the keys of a cache, averaged over queries and heads, `[B, S]`.

    Without softmax and scale, as Sparse-dLLM (arXiv 2508.02558) ranks keys.

    Args:
        q: `[B, H, R, D]`.
        keys: `[B, G, S, D]`, G dividing H.
        weights: `[B, R]`, of each query in the average.
    """
    groups = keys.shape[1]
    mean = (q * weights[:, None, :, None].to(q.dtype)).sum(2).unflatten(1, (groups, -1)).sum(2)
    return torch.einsum("bgd,bgsd->bs", mean, keys).float() / q.shape[1]
