from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dllmc.cli import doctor

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def fails_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def let_fail(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(doctor, "examine", fail)

    return let_fail


def test_what_nobody_expected_is_one_line(dllmc: Callable, fails_with: Callable) -> None:
    fails_with(ZeroDivisionError("division\nby zero"))
    ran = dllmc("doctor")
    assert ran.status == 1
    assert ran.err == (
        "error: internal error: ZeroDivisionError: division; run with --debug and report\n"
    )


@pytest.mark.parametrize("arguments", [("--debug", "doctor"), ("doctor", "--debug")])
def test_debug_shows_the_traceback(
    dllmc: Callable, fails_with: Callable, arguments: tuple[str, ...]
) -> None:
    fails_with(ZeroDivisionError("by zero"))
    ran = dllmc(*arguments)
    assert ran.status == 1
    assert "Traceback (most recent call last)" in ran.err
    assert "in fail" in ran.err


def test_debug_after_two_dashes_is_a_prompt(dllmc: Callable) -> None:
    ran = dllmc("generate", "nope.dllm", "--", "--debug")
    assert ran.status == 1
    assert "Traceback" not in ran.err


def test_an_interruption_is_one_line_and_130(dllmc: Callable, fails_with: Callable) -> None:
    fails_with(KeyboardInterrupt())
    ran = dllmc("doctor")
    assert (ran.status, ran.err) == (130, "interrupted\n")


def test_a_file_that_cannot_be_read_is_named(dllmc: Callable, fails_with: Callable) -> None:
    fails_with(PermissionError(13, "Permission denied", "/some/file"))
    ran = dllmc("doctor")
    assert (ran.status, ran.err) == (1, "error: `/some/file`: Permission denied\n")


@pytest.mark.parametrize("command", [[], ["generate"], ["db"]])
def test_help_starts_without_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom dllmc.cli import app\n"
        f"sys.argv = ['dllmc', *{command}, '--help']\n"
        "try:\n    app()\nfinally:\n"
        "    print('LOADED', *{'torch', 'optuna', 'tokenizers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Usage: dllmc" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "LOADED"


def test_without_arguments_it_shows_its_help(dllmc: Callable) -> None:
    ran = dllmc()
    assert ran.status == 2
    assert "Usage: dllmc" in ran.out
    assert ran.err == ""
