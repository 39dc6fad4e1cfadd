"""Triton's kernels run on a GPU, or on a CPU in a process that has `TRITON_INTERPRET=1`.

`tests/kernels/test_interpreter.py` runs these files in such a process.
"""

from __future__ import annotations

import os

import torch

RUNS = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore_glob = [] if RUNS else ["test_*.py"]
