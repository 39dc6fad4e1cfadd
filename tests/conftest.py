"""One thread, fixed seeds, and no GPU tests where there is no GPU.

Inductor's cache stays where Inductor puts it, so that a second run compiles nothing anew.
"""

from __future__ import annotations

import random

import hypothesis
import pytest
import torch

# The default suite draws the same cases every time. To look for new ones:
# `pytest -m "slow or not slow" --hypothesis-profile=explore`.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.register_profile(
    "explore", deadline=None, derandomize=False, max_examples=500, print_blob=True
)
hypothesis.settings.load_profile("default")

# Models here are tiny: a second thread mostly waits, and on a busy machine spins.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
