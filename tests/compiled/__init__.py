"""Triton's kernels compiled without a GPU: a file per module of `kernels/_triton`."""
