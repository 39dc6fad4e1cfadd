"""The file of a joint sampler's layer, and what the layer computes, in plain NumPy.

The paper (ADJUST, arXiv 2509.22738) says that it is a transformer layer on the last hidden states
which is told the tokens that were committed; how it is told, and the names here, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dllmc.policies._files import read_once
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

# In the order in which the operator `dllmc::joint_layer` takes them.
NAMES = ("fuse", "norm_attention", "qkv", "attention_out", "norm_mlp", "gate_up", "down", "out")
_EPS = 1e-6
_LAYOUT = (
    "`fuse` [D, 2 D], `norm_attention` [D], `qkv` [3 D, D], `attention_out` [D, D], `norm_mlp` "
    "[D], `gate_up` [2 F, D], `down` [D, F] and `out` [D, D]"
)


@dataclass(frozen=True, eq=False)
class JointLayer:
    """One transformer layer on top of a frozen denoiser.

    Attributes:
        weights: By name, in the dtype of the file.
        heads: Attention heads.
        theta: Base of the rotation.
    """

    weights: Mapping[str, Tensor]
    heads: int
    theta: float

    @property
    def width(self) -> int:
        """D, of the denoiser's hidden states."""
        return self.weights["fuse"].shape[0]

    def oracle(
        self, hidden: Sequence[Array], embedded: Sequence[Array], positions: Sequence[int]
    ) -> list[Array]:
        """The hidden states of the rows of one block after the layer, row by row in float64.

        Args:
            hidden: Of each row, `[D]`, as the denoiser's head was given them.
            embedded: Of the token that stands there, `[D]`.
            positions: On the canvas.
        """
        w = {name: tensor.double().numpy() for name, tensor in self.weights.items()}
        x = [w["fuse"] @ np.concatenate(pair) for pair in zip(hidden, embedded, strict=True)]
        parts = [(w["qkv"] @ _normed(row, w["norm_attention"])).reshape(3, -1) for row in x]
        size = self.width // self.heads
        attended = []
        for mine, position in enumerate(positions):
            heads = []
            for head in range(self.heads):
                part = slice(head * size, (head + 1) * size)
                query = self._rotated(parts[mine][0, part], position)
                keys = [
                    self._rotated(other[1, part], place)
                    for other, place in zip(parts, positions, strict=True)
                ]
                scores = np.array([query @ key for key in keys]) / np.sqrt(size)
                shares = np.exp(scores - scores.max())
                values = [other[2, part] for other in parts]
                heads.append(shares @ np.array(values) / shares.sum())
            attended.append(np.concatenate(heads))
        found = []
        for row, mixed, before in zip(x, attended, hidden, strict=True):
            row = row + w["attention_out"] @ mixed
            gate, up = np.split(w["gate_up"] @ _normed(row, w["norm_mlp"]), 2)
            row = row + w["down"] @ (gate / (1 + np.exp(-gate)) * up)
            found.append(before + w["out"] @ row)
        return found

    def _rotated(self, x: Array, position: int) -> Array:
        half = len(x) // 2
        angles = position * self.theta ** (-np.arange(half) / half)
        first, second = x[:half], x[half:]
        turned = first * np.cos(angles) - second * np.sin(angles)
        return np.concatenate((turned, second * np.cos(angles) + first * np.sin(angles)))


def _normed(x: Array, weight: Array) -> Array:
    scaled: Array = weight * x / np.sqrt((x * x).mean() + _EPS)
    return scaled


@read_once
def load_layer(path: str) -> JointLayer:
    """The layer in the file at `path`.

    Raises:
        ConfigError: The file cannot be read, or holds no such layer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            # Copies: what is read stays when the file is written anew.
            weights = {n: file.get_tensor(n).clone() for n in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"`verify.path`={path!r} cannot be read: {error}") from None
    try:
        layer = JointLayer(weights, int(told["heads"]), float(told["rope_theta"]))
    except (KeyError, ValueError):
        raise ConfigError(
            f"`verify.path`={path!r} is no layer of a joint sampler: its metadata {told} must "
            "say `heads` and `rope_theta`"
        ) from None
    _check(path, layer)
    return layer


def _check(path: str, layer: JointLayer) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.weights.items()}
    width = (*shapes.get("fuse", ()), 0)[0]
    inner = (*shapes.get("down", ()), 0, 0)[1]
    expected = {
        "fuse": (width, 2 * width),
        "norm_attention": (width,),
        "qkv": (3 * width, width),
        "attention_out": (width, width),
        "norm_mlp": (width,),
        "gate_up": (2 * inner, width),
        "down": (width, inner),
        "out": (width, width),
    }
    if shapes != expected:
        raise ConfigError(
            f"`verify.path`={path!r} is no layer of a joint sampler: its tensors are {shapes}, "
            f"and expected are {_LAYOUT}"
        )
    if layer.heads < 1 or width % (2 * layer.heads) or layer.theta <= 0:
        raise ConfigError(
            f"`verify.path`={path!r}: `heads`={layer.heads} must divide the width {width} into "
            f"even parts, and `rope_theta`={layer.theta:g} be over 0"
        )
