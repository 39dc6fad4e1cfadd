"""Every kind: what the runtime computes in tensors is what its oracle says row by row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dllmc.policies._registry import kinds
from dllmc.policies.axes import (
    BlockProgress,
    Cache,
    Commit,
    Revise,
    Score,
    Standing,
    Stop,
    commit_oracle,
    commit_rows,
)
from dllmc.spec import ConfigError, DenoiserSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.policies._base import Knob, Policy

MASK = 0
# With some values often, so that there are ties; infinity is what an overflowing mass gives.
DOUBTS = st.sampled_from([0.0, 1e-30, 0.1, 0.5, 3.0, 1e30, math.inf]) | st.floats(0, 100)


def of(knob: Knob) -> st.SearchStrategy[Any]:
    if knob.choices:
        return st.sampled_from(knob.choices)
    assert knob.low is not None
    assert knob.high is not None
    if isinstance(knob.low, int):
        return st.none() | st.integers(knob.low, min(int(knob.high), 40))
    return st.floats(knob.low, knob.high)


def drawn(data: st.DataObject, kind: type[Policy]) -> Policy:
    values = {}
    for name, knob in kind.knobs().items():
        values[name] = data.draw(of(knob), label=name)
        if values[name] is None and not knob.choices:
            values[name] = kind.model_fields[name].default
    return kind(**values)


def nudged(policy: Commit, factor: float) -> Commit:
    values = {
        name: value * factor
        for name, value in dict(policy).items()
        if name in policy.knobs() and isinstance(value, float)
    }
    return policy.model_copy(update=values)


def by_oracle(
    policy: Commit,
    doubt: Sequence[float],
    eligible: Sequence[bool],
    progress: BlockProgress,
    single: bool,
) -> list[bool]:
    places = [index for index, value in enumerate(eligible) if value]
    doubts = [doubt[index] for index in places]
    chosen = commit_oracle(policy, doubts, progress, single=single)
    return [index in {places[i] for i in chosen} for index in range(len(doubt))]


@pytest.mark.parametrize("kind", sorted(kinds("commit")))
@given(data=st.data())
def test_commit(kind: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    batch, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    of_rows = {"min_size": rows, "max_size": rows}
    shape = {"min_size": batch, "max_size": batch}
    doubt = torch.tensor(data.draw(st.lists(st.lists(DOUBTS, **of_rows), **shape)), dtype=dtype)
    eligible = data.draw(st.lists(st.lists(st.booleans(), **of_rows), **shape))
    single = data.draw(st.lists(st.booleans(), **shape))
    policies, progresses = [], []
    for _ in range(batch):
        policy = drawn(data, kinds("commit")[kind])
        assert isinstance(policy, Commit)
        progress = BlockProgress(
            step=data.draw(st.integers(0, 40)),
            masks=data.draw(st.integers(1, 40)),
            blocks=data.draw(st.integers(1, 4)),
            remaining=data.draw(st.integers(1, 40)),
            length=data.draw(st.integers(1, 40)),
        )
        try:
            policy.check(40, progress.blocks)
        except ConfigError:
            assume(False)
        policies.append(policy)
        progresses.append(progress)

    values = [
        policy.values(progress) for policy, progress in zip(policies, progresses, strict=True)
    ]
    stacked = {
        name: torch.tensor([value[name] for value in values], dtype=dtype) for name in values[0]
    }
    selected = commit_rows(
        type(policies[0]), doubt, torch.tensor(eligible), stacked, torch.tensor(single)
    )
    for row in range(batch):
        given_row = doubt[row].tolist(), eligible[row], progresses[row], single[row]
        expected = by_oracle(policies[row], *given_row)
        # On a knife's edge rounding decides; ties between doubts are no such edge.
        for factor in (1 - 1e-5, 1 + 1e-5):
            assume(by_oracle(nudged(policies[row], factor), *given_row) == expected)
        assert selected[row].tolist() == expected
        if not policies[row].may_wait or single[row]:
            assert any(expected) == any(eligible[row])


@pytest.mark.parametrize("kind", sorted(kinds("revise")))
@given(data=st.data())
def test_revise(kind: str, data: st.DataObject) -> None:
    policy = drawn(data, kinds("revise")[kind])
    assert isinstance(policy, Revise)
    rows = data.draw(st.integers(1, 9))
    doubt = data.draw(st.lists(DOUBTS, min_size=rows, max_size=rows))
    changed = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    values = {n: torch.tensor([v], dtype=torch.float64) for n, v in policy.values().items()}
    selected = policy.select(
        torch.tensor([doubt], dtype=torch.float64), torch.tensor([changed]), values
    )
    places = [index for index, value in enumerate(changed) if value]
    chosen = {places[i] for i in policy.oracle([doubt[index] for index in places])}
    for limit in values.values():
        assume(all(not math.isclose(d, limit.item(), rel_tol=1e-9) for d in doubt))
    assert selected[0].tolist() == [index in chosen for index in range(rows)]


@pytest.mark.parametrize("kind", sorted(kinds("score")))
@given(data=st.data())
def test_score(kind: str, data: st.DataObject) -> None:
    policy = drawn(data, kinds("score")[kind])
    assert isinstance(policy, Score)
    tail_mass = data.draw(st.lists(DOUBTS, min_size=1, max_size=9))
    doubt = policy.doubt(torch.tensor([tail_mass, tail_mass], dtype=torch.float64))
    assert doubt.tolist() == [policy.oracle(tail_mass)] * 2


@pytest.mark.parametrize("kind", sorted(kinds("cache")))
@given(data=st.data())
def test_cache(kind: str, data: st.DataObject) -> None:
    policy = drawn(data, kinds("cache")[kind])
    assert isinstance(policy, Cache)
    spec = DenoiserSpec(
        mask_id=0,
        vocab_size=2,
        max_length=64,
        attention="block_causal",
        block_length=8,
        logit_shift=data.draw(st.sampled_from([0, 1])),
    )
    outer_start = 8 * data.draw(st.integers(0, 4))
    start = data.draw(st.integers(max(outer_start, 1), outer_start + 7))
    end = data.draw(st.integers(start + 1, outer_start + 8))
    standing = Standing(
        block=(start, end),
        whole=(data.draw(st.integers(outer_start, start)), end),
        outer=(outer_start, outer_start + 8),
        reach=outer_start + 8,
        step=data.draw(st.integers(0, 3)),
        outer_steps=data.draw(st.integers(0, 3)),
        committed=data.draw(st.integers(0, 20)),
        first_masked=data.draw(st.booleans()),
        exact=8 * data.draw(st.integers(0, outer_start // 8)),
    )
    found = policy.evaluate(standing, spec)
    rows, offered, refresh = policy.oracle(standing, spec)
    assert set(range(*found.rows)) == rows
    assert set(range(*found.head)) == offered
    assert found.refresh == refresh
    assert offered <= set(range(start, end))
    # Every row that commits is evaluated, or predicted by one that is.
    assert offered <= rows | {position + spec.logit_shift for position in rows}


@pytest.mark.parametrize("kind", sorted(kinds("stop")))
@given(data=st.data())
def test_stop(kind: str, data: st.DataObject) -> None:
    policy = drawn(data, kinds("stop")[kind])
    assert isinstance(policy, Stop)
    rows = data.draw(st.integers(1, 8))
    response = st.lists(st.integers(MASK, 4), min_size=rows, max_size=rows)
    responses = data.draw(st.lists(response, min_size=1, max_size=4))
    eos_ids = data.draw(st.lists(st.integers(1, 4), max_size=2, unique=True))
    finished = policy.finished(
        torch.tensor(responses), MASK, torch.tensor(eos_ids, dtype=torch.int64)
    )
    assert finished.tolist() == [policy.oracle(row, MASK, eos_ids) for row in responses]
