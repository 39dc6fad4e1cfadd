from __future__ import annotations

import inspect

import pytest

from dllmc.spec import DllmcError, UsageError, errors, nearest

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]


@pytest.mark.parametrize("error", CLASSES)
def test_usage_exits_with_2_and_failure_with_1(error: type[DllmcError]) -> None:
    assert issubclass(error, DllmcError)
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)
    assert issubclass(error, ValueError) == issubclass(error, UsageError)
    assert error.__doc__


def test_nearest_suggests_what_is_close_and_lists_the_rest() -> None:
    assert nearest("sotr", ["copy", "sort"]) == "did you mean `sort`? Known: copy, sort"
    assert nearest("xyz", ["sort", "copy"]) == "known: copy, sort"
