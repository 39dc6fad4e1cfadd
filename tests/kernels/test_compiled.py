"""Triton's kernels as machine code of GPUs that are not here, in a process without interpreter."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is for Linux"
)

# Bytes of shared memory that a block may have at most.
SHARED = {80: 166_912, 90: 232_448}


@pytest.fixture(scope="module", params=["--few", pytest.param("", marks=pytest.mark.slow)])
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    cache = tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "compiled.compile_all", *map(str, SHARED)]
    command += [request.param] if request.param else []
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_no_configuration_that_is_shipped_spills_registers(compiled: list[dict[str, Any]]) -> None:
    assert {each["capability"] for each in compiled} == set(SHARED)
    assert [each for each in compiled if each["spilled"] or each["registers"] > 255] == []


def test_shared_memory_is_there(compiled: list[dict[str, Any]]) -> None:
    assert [each for each in compiled if each["shared"] > SHARED[each["capability"]]] == []


def test_products_take_tensor_cores(compiled: list[dict[str, Any]]) -> None:
    products = [each for each in compiled if "product" in each["case"]]
    assert all(each["tensor_cores"] for each in products)
