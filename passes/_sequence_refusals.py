"""What is wrong with an operator that cannot be proved position-wise, and what to do about it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dllmc.passes._graph import value_of

if TYPE_CHECKING:
    from torch.fx import Node

    from dllmc.passes._sequence import SequenceAxes


class _Family(NamedTuple):
    """Operators by name, what they do to positions, and what to do instead.

    A name that ends in `*` stands for all that begin so.
    """

    names: str
    does: str
    remedy: str


_ALONE = "a denoiser's layers must work on each position alone outside attention"
_FAMILIES = (
    _Family(
        "conv* _conv* unfold im2col",
        "is a convolution and mixes neighbouring positions",
        "take it out, or replace it with attention",
    ),
    _Family(
        "cumsum cumprod cummax cummin logcumsumexp",
        "accumulates over the sequence, so that a position sees all before it",
        "take positions from `torch.arange`, and let attention carry what tokens say",
    ),
    _Family(
        "roll flip fliplr flipud rot90",
        "moves rows to other positions",
        "keep every row at its position; attention can look elsewhere",
    ),
    _Family(
        "sort argsort msort topk kthvalue median",
        "orders values, which along the sequence puts rows to other positions",
        "order along the feature axis only",
    ),
    _Family(
        "fft_* _fft_* stft istft",
        "is a Fourier transform, in which every position sees every other",
        "replace it with attention",
    ),
    _Family(
        "avg_pool* max_pool* adaptive_* lp_pool* upsample_* fractional_*",
        "pools or resamples neighbouring positions",
        "keep one row for each position",
    ),
    _Family(
        "batch_norm instance_norm group_norm native_batch_norm native_group_norm layer_norm",
        "normalises with statistics over positions or sequences",
        "normalise over the features of each position (LayerNorm, RMSNorm), or with statistics "
        "that are kept",
    ),
    _Family(
        "softmax _softmax log_softmax _log_softmax _safe_softmax",
        "is a softmax over the sequence or the batch outside attention",
        "write attention as `F.scaled_dot_product_attention`, and take other softmaxes over "
        "features",
    ),
    _Family(
        "mean sum amax amin max min argmax argmin var std logsumexp linalg_vector_norm norm prod "
        "any all",
        "pools the sequence or the batch into one value, which every row then depends on",
        "reduce over features only; what sums a sequence up must go through attention",
    ),
    _Family(
        "matmul bmm baddbmm einsum mm addmm",
        "multiplies positions or sequences with one another: that mixes positions outside the "
        "attention that was recognised",
        "write attention as `F.scaled_dot_product_attention(q, k, v)` of [batch, heads, "
        "positions, width]",
    ),
    _Family(
        "slice select narrow index index_select gather scatter* take* masked_select nonzero* "
        "unique* as_strided",
        "picks rows by where they stand or by what they hold, so that others see them",
        "keep all rows; attention can look at some",
    ),
    _Family(
        "cat stack pad constant_pad_nd repeat repeat_interleave",
        "adds, repeats or shifts rows of the sequence or the batch",
        "keep one row for each token",
    ),
    _Family(
        "_transformer_encoder_layer_fwd _native_multi_head_attention",
        "is torch's fused encoder, whose attention cannot be seen",
        "call `torch.backends.mha.set_fastpath_enabled(False)` before",
    ),
    _Family(
        "scaled_dot_product* _scaled_dot_product* _flash_attention* flash_attn* "
        "_efficient_attention*",
        "is an attention call that is not known",
        "call `F.scaled_dot_product_attention(q, k, v)` of [batch, heads, positions, width]",
    ),
    _Family(
        "attention",
        "attends over another axis than the positions of a sequence",
        "give q, k and v as [batch, heads, positions, width]",
    ),
    _Family(
        "reshape view _unsafe_view flatten unflatten",
        "merges positions with something else, or splits them",
        "keep batch and positions as axes of their own",
    ),
    _Family(
        "gru* lstm* rnn* _thnn*",
        "is a recurrence over the sequence",
        "replace it with attention",
    ),
)


def no_rule(node: Node) -> str:
    """Why an operator without a rule is refused."""
    family = _family(node)
    if family is not None:
        return f"{family.does}; {family.remedy}"
    return (
        "has no rule that proves it position-wise; write it with operators that have one, or, if "
        "it is position-wise, add a rule to passes/_sequence_rules.py"
    )


def mixes(node: Node, found: SequenceAxes) -> str:
    """Why an operator is refused whose rule says that it mixes."""
    family = _family(node)
    if family is not None:
        return f"{family.does}; {family.remedy}"
    read = [source for source in node.all_input_nodes if source in found.axis]
    shapes = [list(value_of(source).shape) for source in read if _is_tensor(source)]
    return (
        f"mixes or reorders positions along the sequence axis, or sequences along the batch axis, "
        f"of {shapes}; {_ALONE}"
    )


def _is_tensor(node: Node) -> bool:
    return isinstance(value_of(node), torch.Tensor)


def _family(node: Node) -> _Family | None:
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name.partition("::")[2]
    return next((family for family in _FAMILIES if _names(family, name)), None)


def _names(family: _Family, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in family.names.split())
