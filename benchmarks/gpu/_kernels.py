"""Kernels alone, as measured: token statistics and products of few rows."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from triton.testing import do_bench_cudagraph

from dllmc.kernels import canonical, implementation
from dllmc.kernels._triton.linear import launch as launch_linear
from dllmc.kernels._triton.statistics import launch

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(call: Callable[[], Any]) -> float:
    """Median seconds of a call, without the gaps between launches."""
    return float(do_bench_cudagraph(call, rep=60, return_mode="median")) / 1e3


def statistics_rows(copy: float, *, sweep: bool) -> list[dict[str, Any]]:
    """Token statistics of bf16 logits: seconds, and share of the copy bandwidth."""
    found = []
    compiled = torch.compile(lambda x: canonical("statistics")(x, 126336), dynamic=False)
    for rows in (32, 256, 1024):
        logits = torch.randn(1, rows, 126464, device="cuda").bfloat16()
        rivals: dict[str, Callable[[], Any]] = {
            "plain": lambda x=logits: canonical("statistics")(x, 126336),
            "inductor": lambda x=logits: compiled(x),
            "triton": lambda x=logits: implementation("statistics", "triton")(x, 126336),
        }
        sizes = itertools.product((1024, 2048, 4096), (4, 8, 16, 32), (4, 8)) if sweep else ()
        for block, splits, warps in sizes:
            config = {"BLOCK": block, "SPLITS": splits, "num_warps": warps}
            rivals[f"triton {config}"] = partial(launch, logits, 126336, config=config)
        exact = canonical("statistics")(logits.double(), 126336)
        for name, call in rivals.items():
            ids, _, tails = call()
            error = ((tails.double() - exact[2]).abs() / exact[2]).max()
            seconds = timed(call)
            found.append(
                {
                    "rows": rows,
                    "implementation": name,
                    "seconds": seconds,
                    "share_of_copy": logits.numel() * 2 / seconds / copy,
                    "same_tokens": bool((ids == exact[0]).all()),
                    "largest_relative_error_of_tails": float(error),
                }
            )
        del logits, exact
    return found


def product_rows(copy: float, *, sweep: bool) -> list[dict[str, Any]]:
    """Products of few rows: seconds, and share of the copy bandwidth that reads the weights."""
    found = []
    shapes = [(4096, 4096), (12288, 4096), (24576, 4096), (4096, 12288), (126464, 4096)]
    for (out, width), rows in itertools.product(shapes, (32, 128)):
        # Several copies, so that none is found in the cache.
        copies = max(1, (256 << 20) // (out * width * 2))
        weights = [torch.randn(out, width, device="cuda").bfloat16() for _ in range(copies)]
        x = torch.randn(1, rows, width, device="cuda").bfloat16()

        def all_of(product: Callable[..., Any], weights: Any = weights, x: Any = x) -> None:
            for weight in weights:
                product(x, weight, None)

        rivals = {"cublas": F.linear, "triton": implementation("linear", "triton")}
        sizes = itertools.product((32, 64, 128), (64, 128, 256), (4, 8), (3, 5)) if sweep else ()
        for n, k, warps, stages in sizes:
            tile = {"BLOCK_M": rows, "BLOCK_N": n, "BLOCK_K": k}
            config = {**tile, "num_warps": warps, "num_stages": stages}
            if stages * (rows + n) * k * 2 < 200_000 and n * rows <= 8192:
                rivals[f"triton {config}"] = partial(launch_linear, config=config)
        for name, product in rivals.items():
            try:
                seconds = timed(partial(all_of, product)) / copies
            except Exception as error:  # A tile that is too large, of Triton or of the driver.
                print(f"{out} x {width}, {rows} rows, {name}: {str(error)[:200]}")
                continue
            found.append(
                {
                    "out": out,
                    "width": width,
                    "rows": rows,
                    "implementation": name,
                    "seconds": seconds,
                    "share_of_copy": out * width * 2 / seconds / copy,
                }
            )
        del weights, x
    return found
