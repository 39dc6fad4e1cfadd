"""How fast this machine reads and multiplies at best, for roofline floors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

# Elements read and side of the square matrices; far beyond any cache, and a fraction of a second.
_READ, _SIDE = 1 << 26, 1024
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured.

    Attributes:
        bandwidth: Bytes read per second.
        rate: Floating-point operations per second.
    """

    bandwidth: float
    rate: float

    def __str__(self) -> str:
        return f"{self.bandwidth / 1e9:.1f} GB/s and {self.rate / 1e9:.0f} GFLOP/s"


def measure(dtype: torch.dtype, device: torch.device | str = "cpu") -> Machine:
    """The best of a few runs of a plain sum, and of a square product in `dtype`.

    The product is the one that steps run, or torch's own if that is faster: on an AMD processor
    packed weights multiply 2.4 times faster than `@`, and a floor must not be above what runs.

    Args:
        dtype: Of the product.
        device: Which to measure.
    """
    import torch

    from dllmc.kernels import default_implementations, implementation

    numbers = torch.ones(_READ, dtype=torch.float32, device=device)
    square = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    size = numbers.numel() * numbers.element_size()
    seconds = [_best(lambda: float((square @ square)[0, 0]))]
    lowered = default_implementations(torch.device(device), dtype).get("linear")
    if lowered is not None:
        linear = implementation("linear", lowered)
        seconds.append(_best(lambda: float(linear(square, square, None)[0, 0])))
    return Machine(size / _best(lambda: float(numbers.sum())), 2 * _SIDE**3 / min(seconds))


def _best(run: Callable[[], float]) -> float:
    """Seconds of the fastest run; each returns a number, so that a device must have finished."""
    seconds = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
