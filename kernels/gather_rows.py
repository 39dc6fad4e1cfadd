"""Pick rows of the sequence axis, per sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels._library import define, implement

if TYPE_CHECKING:
    from torch import Tensor


_SIGNATURE = "gather_rows(Tensor x, Tensor rows, int dim) -> Tensor"


@define(_SIGNATURE)
def gather_rows(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    """`x` with axis `dim` (batch is axis 0) indexed by `rows` `[B, R]`."""
    shape = [1] * x.dim()
    shape[0], shape[dim] = rows.shape[0], rows.shape[1]
    expanded = list(x.shape)
    expanded[dim] = rows.shape[1]
    return torch.gather(x, dim, rows.view(shape).expand(expanded))


@implement("gather_rows", "indexed", _SIGNATURE)
def gather_rows_indexed(x: Tensor, rows: Tensor, dim: int) -> Tensor:
    """The same by indexing: torch-tensorrt has no `gather` for dynamic sizes."""
    batch = torch.arange(rows.shape[0], device=rows.device)[:, None]
    return x.movedim(dim, 1)[batch, rows].movedim(1, dim)
