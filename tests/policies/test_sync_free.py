from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from rows.given import made
from rows.made import MASK, SPEC, VOCAB
from torch._subclasses.fake_tensor import FakeTensorMode

from dllmc.policies._registry import kinds
from dllmc.policies.axes import Belief, Commit, Revise, Schedule, Score, Stop, Verify
from dllmc.policies.progress import commit_rows
from dllmc.policies.rows import Rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, statistics_name, statistics_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from dllmc.policies._base import Policy

# Whatever needs a value on the host (`.item()`, `nonzero`, a branch) fails on fake tensors.
SHAPE = N, L = 3, 8
PROGRESS = BlockProgress(0, masks=4, blocks=1, remaining=4, length=4, response=4)


def shapes(kind: type[Policy]) -> Iterator[Policy]:
    """A kind as it is by default, and with each choice that it has."""
    yield made(kind)
    for name, knob in kind.knobs().items():
        for choice in knob.choices:
            try:
                yield made(kind, **{name: choice})
            except ConfigError:
                continue  # goes only with other values


def of_axis(axis: str) -> list[pytest.ParameterSet]:  # type: ignore[name-defined]
    return [
        pytest.param(policy, id=f"{kind}{number or ''}")
        for kind in kinds(axis)
        for number, policy in enumerate(shapes(kinds(axis)[kind]))
    ]


def rows_for(policy: Policy) -> Rows:
    """With the statistics that the policy asks for and what it remembers, and nothing else."""
    flags, numbers = torch.ones(SHAPE).bool(), torch.rand(SHAPE)
    tokens = torch.full(SHAPE, MASK)
    _, parts = statistics_parts(statistics_name("greedy", policy.needs))
    extra: dict[str, Tensor] = {}
    for name, count in parts.items():
        if name == "top":
            extra["top_ids"] = torch.ones(*SHAPE, count).long()
            extra["top_logits"] = torch.rand(*SHAPE, count)
        elif name == "gather":
            extra["gathered"] = torch.rand(*SHAPE, count)
        elif name == "logits":
            extra["all"] = torch.rand(*SHAPE, VOCAB)
        elif name == "hidden":
            extra["hidden"] = torch.rand(*SHAPE, 32)  # as wide as the layer of `given`
        else:
            extra[name] = numbers
    memory = {}
    for name, entry in policy.remembers(SPEC).items():
        places = SHAPE if entry.per == "position" else SHAPE[:1]
        dtype = getattr(torch, entry.dtype)
        memory[name] = torch.full((*places, *entry.shape), entry.fill, dtype=dtype)
    return Rows(
        mask_id=MASK,
        positions=torch.ones(SHAPE).long(),
        tokens=tokens,
        offered=flags,
        masked=flags,
        eligible=flags,
        ids=tokens,
        logits=numbers,
        tail=numbers,
        doubt=numbers,
        single=torch.zeros(N).bool(),
        waits=torch.zeros(N).bool(),
        counters=torch.zeros(N, 3).long(),
        extra=extra,
        memory=memory,
        vocab_size=VOCAB,
    )


def on_fake_tensors(policy: Any, call: Callable[[Rows, dict[str, Tensor]], Any]) -> Any:
    """What `call` makes of rows and values; it may not ask what is in them."""
    names = list(policy.values(PROGRESS))
    # What is read but once, such as a file of weights, is no part of a step.
    call(rows_for(policy), {name: torch.rand(N) for name in names})
    with FakeTensorMode(allow_non_fake_inputs=True):
        return call(rows_for(policy), {name: torch.rand(N) for name in names})


def like(found: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return (found.shape, found.dtype) == (shape, dtype)


def remembers(policy: Policy, found: Rows) -> bool:
    before = rows_for(policy).memory
    return found.memory.keys() == before.keys() and all(
        like(found.memory[name], held.shape, held.dtype) for name, held in before.items()
    )


@pytest.mark.parametrize("policy", of_axis("commit"))
def test_commit_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Commit)
    committed = on_fake_tensors(policy, lambda rows, values: commit_rows(policy, rows, values))
    assert like(committed, SHAPE, torch.bool)


@pytest.mark.parametrize("policy", of_axis("revise"))
def test_revision_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Revise)
    rows, revision = on_fake_tensors(
        policy, lambda rows, values: policy.select(rows, torch.ones(SHAPE).bool(), values)
    )
    assert like(revision.replaced, SHAPE, torch.bool)
    assert like(revision.reopened, SHAPE, torch.bool)
    assert remembers(policy, rows)


@pytest.mark.parametrize("policy", of_axis("score"))
def test_score_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Score)
    rows = on_fake_tensors(policy, policy.judge)
    assert like(rows.doubt, SHAPE, torch.float32)
    assert like(rows.ids, SHAPE, torch.int64)
    assert rows.order is None or rows.order.shape == SHAPE
    assert remembers(policy, rows)


@pytest.mark.parametrize("policy", of_axis("belief"))
def test_belief_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Belief)
    rows, held = on_fake_tensors(policy, policy.observe)
    assert held is None or like(held, (N,), torch.bool)
    assert remembers(policy, rows)
    if policy.width:
        assert like(rows.memory["belief.ids"], (*SHAPE, policy.width), torch.int64)
        assert like(rows.memory["belief.weights"], (*SHAPE, policy.width), torch.float32)


@pytest.mark.parametrize("policy", of_axis("schedule"))
def test_a_blocks_end_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Schedule)
    if policy.adapts:
        assert like(on_fake_tensors(policy, policy.end), (N,), torch.int64)


@pytest.mark.parametrize("policy", of_axis("verify"))
def test_verification_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Verify)

    def call(rows: Rows, values: dict[str, Tensor]) -> Any:
        if policy.auxiliary == "step":
            rows = rows.having(extra={**rows.extra, "auxiliary": torch.rand(*SHAPE, VOCAB)})
        return policy.draft(rows), policy.accept(rows, torch.ones(SHAPE).bool(), values)

    rows, accepted = on_fake_tensors(policy, call)
    assert like(accepted, SHAPE, torch.bool)
    assert remembers(policy, rows)


@pytest.mark.parametrize("policy", of_axis("stop"))
def test_stop_never_waits_for_the_device(policy: Any) -> None:
    assert isinstance(policy, Stop)

    def call(rows: Rows, values: dict[str, Tensor]) -> Any:
        ends, committed = torch.ones(2).long(), torch.ones(SHAPE).bool()
        finished = policy.finished(torch.ones(SHAPE).long(), MASK, ends)
        return finished, policy.fills(rows, values), policy.cut(rows, committed, ends, values)

    finished, (rows, filled), cut = on_fake_tensors(policy, call)
    assert like(finished, (N,), torch.bool)
    assert filled is None or like(filled, (N,), torch.bool)
    assert cut is None or like(cut, (N,), torch.int64)
    assert remembers(policy, rows)
