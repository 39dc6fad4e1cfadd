from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dllmc.runtime import hardware
from dllmc.runtime.hardware import detect_software, driver_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    driver_version.cache_clear()
    yield
    driver_version.cache_clear()


def library(*, opens: int = 0, answers: int = 0) -> Any:
    """NVML of driver 550.54.15, which gives these statuses; 0 is success."""

    def version(text: Any, length: int) -> int:
        assert length == len(text) == 80
        text.value = b"550.54.15"
        return answers

    return SimpleNamespace(
        nvmlInit_v2=lambda: opens,
        nvmlShutdown=lambda: 0,
        nvmlSystemGetDriverVersion=version,
    )


def missing() -> Any:
    raise OSError("libnvidia-ml.so.1: cannot open shared object file")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Lets NVML be what a function loads."""
    return lambda load: monkeypatch.setattr(ctypes, "CDLL", lambda _: load())


def test_the_driver_is_software_of_a_gpu(driver: Callable[..., None]) -> None:
    driver(library)
    assert detect_software(GPU)["driver"] == "550.54.15"


@pytest.mark.parametrize(
    "load",
    [missing, lambda: library(opens=9), lambda: library(answers=1)],
    ids=["no library", "no driver", "no answer"],
)
def test_a_driver_that_is_not_known_is_left_out(
    driver: Callable[..., None], load: Callable[[], Any]
) -> None:
    driver(load)
    assert detect_software(GPU).keys() == {"torch", "dllmc"}


def test_a_cpu_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "driver_version", lambda: "550.54.15")
    assert detect_software(torch.device("cpu")).keys() == {"torch", "dllmc"}


@pytest.mark.gpu
def test_the_driver_of_this_machine_is_known() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    version = driver_version()
    assert version is not None
    assert version[0].isdigit()
