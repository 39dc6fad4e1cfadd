"""One thread, fixed seeds, and no GPU tests where there is no GPU.

Inductor's cache stays where Inductor puts it, so that a second run compiles nothing anew.
"""

from __future__ import annotations

import functools
import itertools
import random
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from xdist.scheduler import WorkStealingScheduling

# The default suite draws the same cases every time, and `make test-all` more of them. To look for
# new ones: `pytest -m "slow or not slow" --hypothesis-profile=explore`.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("more", deadline=None, derandomize=True, max_examples=100)
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


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock for the tuner that is 100 ms later whenever it is read.

    So a budget lasts as long on any machine, however busy it is.
    """
    from dllmc import autotune

    clock = functools.partial(next, itertools.count(0.0, 0.1))
    monkeypatch.setattr(autotune, "tune", functools.partial(autotune.tune, clock=clock))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkStealingScheduling | None:
    """Neighbours run in one process, so that what they share is made once and not in each."""
    if config.option.dist != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
