"""A small network judges the probabilities of a block (Learn2PD, arXiv 2509.25188).

Its file is safetensors, with the published names: `linear1.weight` `[H, W]` and `linear1.bias`,
then ReLU, `linear2.weight` `[W, H]` and `linear2.bias`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from dllmc.policies._files import read_once, version
from dllmc.policies.axes import Score
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec

_NAMES = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")


class LearnedFilter(Score):
    """The doubt is the odds against the candidate being what the response will have there.

    The network sees the probabilities of all W rows of the block, committed ones too, those that
    a shorter block lacks as 0. Rows are ordered by probability all the same: it decides which one
    commits where the filter lets none through.

    Attributes:
        path: Of the network's file.
    """

    excludes: ClassVar[Mapping[str, str]] = {
        "masked rows": "it sees all rows of a block, and this evaluates the masked ones alone; "
        "use `cache.kind`='none', 'prefix' or 'dual'",
    }
    kind: Literal["learned_filter"] = "learned_filter"
    path: str

    def check_model(self, spec: DenoiserSpec) -> None:
        del spec
        _load(self.path)

    def structure(self) -> tuple[object, ...]:
        # Whoever decodes by what the file held before is not decided over with others.
        return *super().structure(), version(self.path)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        self._check(progress)
        return {}

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        first, first_bias, second, second_bias = _on(self.path, rows.tail.device, rows.tail.dtype)
        # Padding beyond the block is cut off, and put back below.
        spare = first.shape[1] - rows.tail.shape[1]
        probability = F.pad(torch.where(rows.offered, 1 / (1 + rows.tail), 0), (0, spare))
        hidden = F.relu(F.linear(probability, first, first_bias))
        logits = F.pad(F.linear(hidden, second, second_bias), (0, -spare))
        return rows.having(doubt=torch.exp(-logits), order=rows.tail)

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del memory
        self._check(progress)
        first, first_bias, second, second_bias = (t.tolist() for t in _load(self.path))
        probability = [1 / (1 + row.tail_mass) for row in rows]
        hidden = [max(0.0, z) for z in _linear(probability, first, first_bias)]
        logits = _linear(hidden, second, second_bias)
        return [
            row.having(doubt=math.exp(-logit), order=row.tail_mass)
            for row, logit in zip(rows, logits, strict=False)
        ]

    def _check(self, progress: BlockProgress) -> None:
        width = _load(self.path)[0].shape[1]
        if progress.length > width:
            raise ConfigError(
                f"`score.path`={self.path!r} is a filter of {width} positions, and a block has "
                f"{progress.length}; use `schedule.block_length`={width} or less"
            )


def _linear(
    x: Sequence[float], weight: Sequence[Sequence[float]], bias: Sequence[float]
) -> list[float]:
    """`weight` times what `x` has, the rest of it as 0, plus `bias`."""
    return [
        sum(w * value for w, value in zip(row, x, strict=False)) + shift
        for row, shift in zip(weight, bias, strict=True)
    ]


@read_once
def _on(path: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device, dtype) for tensor in _load(path))


@read_once
def _load(path: str) -> tuple[Tensor, ...]:
    """The four tensors in float64.

    Raises:
        ConfigError: The file cannot be read, or is no such network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"`score.path`={path!r} cannot be read: {error}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    hidden, width = (*shapes.get(_NAMES[0], ()), 0, 0)[:2]
    expected = dict(
        zip(_NAMES, ((hidden, width), (hidden,), (width, hidden), (width,)), strict=True)
    )
    if shapes != expected:
        raise ConfigError(
            f"`score.path`={path!r} is no filter: its tensors are {shapes}, and expected are "
            "`linear1.weight` [H, W], `linear1.bias` [H], `linear2.weight` [W, H] and "
            "`linear2.bias` [W]"
        )
    # Copies: what is read stays when the file is written anew.
    return tuple(stored[name].to(torch.float64, copy=True) for name in _NAMES)
