"""What stands behind a module's last hidden states, where a joint sampler is to come between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllmc.policies.verify._joint_layer import JointLayer

    Array = NDArray[np.float64]

_LINEAR = (F.linear, torch.ops.aten.linear.default)
_EMBEDDING = (F.embedding, torch.ops.aten.embedding.default)


class HeadWatch(TorchFunctionMode):
    """Remembers the first embedding and the last linear layer of a forward.

    Attributes:
        hidden: `[T, D]` float64, what the last linear layer was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Array = np.zeros((0, 0))
        self._embedding: Tensor | None = None
        self._head: tuple[Tensor, Tensor | None] | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs or {})
        if func in _LINEAR or str(func) == "dllmc.linear.default":
            given = named.get("input", named.get("x"))
            assert given is not None
            self._last, self._head = (given, result), (named["weight"], named.get("bias"))
        if func in _EMBEDDING and self._embedding is None:
            tables = [a for a in named.values() if isinstance(a, torch.Tensor)]
            self._embedding = next(a for a in tables if a.is_floating_point())
        return result

    def keep(self, logits: Tensor) -> None:
        """Keep what a forward has shown, which returned these `[1, T, V]`.

        Raises:
            ConfigError: The logits are not the product of the last linear layer.
        """
        if self._last is None or self._embedding is None or not self._last[1].equal(logits):
            raise ConfigError(
                "the model's logits are not what its last linear layer returned, or its tokens "
                "are not looked up in an embedding, so that no joint sampler can stand between; "
                "use `verify.kind`='none'"
            )
        self.hidden = _array(self._last[0][0])

    def logits(
        self,
        layer: JointLayer,
        hidden: Sequence[Array],
        tokens: Sequence[int],
        positions: Sequence[int],
    ) -> list[Array]:
        """What the head makes of hidden states after the joint sampler's layer, `[V]` each.

        Raises:
            ConfigError: The layer has another width.
        """
        assert self._embedding is not None
        assert self._head is not None
        if layer.width != len(hidden[0]):
            raise ConfigError(
                f"the layer of the joint sampler has width {layer.width}, and the model's hidden "
                f"states {len(hidden[0])}; give the layer that was trained on this model"
            )
        table, (weight, bias) = _array(self._embedding), self._head
        shift = 0 if bias is None else _array(bias)
        after = layer.oracle(hidden, [table[token] for token in tokens], positions)
        return [_array(weight) @ row + shift for row in after]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().double().cpu().numpy()
    return array
