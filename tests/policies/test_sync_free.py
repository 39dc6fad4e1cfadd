from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dllmc.policies._registry import kinds, parse
from dllmc.policies.axes import BlockProgress, Commit, Revise, Score, Stop, commit_rows

# Whatever needs a value on the host (`.item()`, `nonzero`, a branch) fails on fake tensors.


@pytest.mark.parametrize("kind", kinds("commit"))
def test_commit_never_waits_for_the_device(kind: str) -> None:
    policy = parse("commit", {"kind": kind})
    assert isinstance(policy, Commit)
    names = policy.values(BlockProgress(step=0, masks=4, blocks=1, remaining=4, length=4))
    with FakeTensorMode():
        values = {name: torch.rand(3) for name in names}
        eligible, single = torch.ones(3, 8).bool(), torch.zeros(3).bool()
        committed = commit_rows(type(policy), torch.rand(3, 8), eligible, values, single)
    assert (committed.shape, committed.dtype) == ((3, 8), torch.bool)


@pytest.mark.parametrize("kind", kinds("revise"))
def test_revision_never_waits_for_the_device(kind: str) -> None:
    policy = parse("revise", {"kind": kind})
    assert isinstance(policy, Revise)
    names = policy.values()
    with FakeTensorMode():
        values = {name: torch.rand(3) for name in names}
        revised = policy.select(torch.rand(3, 8), torch.ones(3, 8).bool(), values)
    assert (revised.shape, revised.dtype) == ((3, 8), torch.bool)


@pytest.mark.parametrize("kind", kinds("score"))
def test_score_never_waits_for_the_device(kind: str) -> None:
    policy = parse("score", {"kind": kind})
    assert isinstance(policy, Score)
    with FakeTensorMode():
        doubt = policy.doubt(torch.rand(3, 8))
    assert doubt.shape == (3, 8)


@pytest.mark.parametrize("kind", kinds("stop"))
def test_stop_never_waits_for_the_device(kind: str) -> None:
    policy = parse("stop", {"kind": kind})
    assert isinstance(policy, Stop)
    with FakeTensorMode():
        finished = policy.finished(torch.ones(3, 8).long(), 0, torch.ones(2).long())
    assert (finished.shape, finished.dtype) == ((3,), torch.bool)
