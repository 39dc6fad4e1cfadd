"""Every kind: what the runtime computes in tensors is what its oracle says row by row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from rows.drawn import Trial, drawn
from rows.made import MASK, SLOTS, VOCAB

from dllmc.policies._registry import kinds
from dllmc.policies.axes import AXES, Belief, Cache, Commit, Stop
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import Standing
from dllmc.spec import ConfigError, DenoiserSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rows.drawn import Asked
    from rows.made import Evaluated
    from torch import Tensor

    from dllmc.policies.axes import Revise, Schedule, Score, Verify
    from dllmc.policies.rows import Rows

DTYPES = st.sampled_from([torch.float32, torch.float64])
EOS = (1, 3)
SIDES = {
    "schedule": [("end", "end_oracle")],
    "belief": [("observe", "mixtures")],
    "score": [("judge", "oracle")],
    "commit": [("select", "oracle")],
    "cache": [("evaluate", "oracle")],
    "stop": [("finished", "oracle"), ("fills", "fills_oracle"), ("cut", "cut_oracle")],
    "verify": [("accept", "accept_oracle")],
    "constrain": [("candidates", "candidates_oracle")],
    "revise": [("select", "oracle")],
}


Judged = tuple[int, float, float]


def changes(axis: str, kind: str, name: str) -> bool:
    """Whether a kind has a function of its own instead of its axis's."""
    return getattr(kinds(axis)[kind], name) is not getattr(AXES[axis], name)


@pytest.mark.parametrize(
    ("axis", "kind"), [(axis, kind) for axis in SIDES for kind in kinds(axis)]
)
def test_a_rule_has_both_sides(axis: str, kind: str) -> None:
    for tensors, oracle in SIDES[axis]:
        assert changes(axis, kind, tensors) == changes(axis, kind, oracle)
    if axis == "schedule":
        assert kinds(axis)[kind].adapts == changes(axis, kind, "end")  # type: ignore[attr-defined]


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("kind", sorted(kinds("commit")))
@given(data=st.data())
def test_commit(kind: str, data: st.DataObject) -> None:
    trial = Trial(data, kinds("commit")[kind], data.draw(DTYPES), judged=True)
    try:
        for policy in trial.policies:
            assert isinstance(policy, Commit)
            policy.check(40, trial.blocks)
    except ConfigError:
        assume(False)

    def oracle(asked: Asked) -> set[int]:
        chosen = commit_oracle(
            asked.policy, asked.eligible, asked.progress, single=asked.single, waits=asked.waits
        )
        if asked.single or not (asked.policy.may_wait or asked.waits):
            assert bool(chosen) == bool(asked.eligible)
        return {asked.eligible[index].position for index in chosen}

    def tensors(
        policy: Any, evaluated: Evaluated, values: dict[str, Tensor], _: Tensor
    ) -> tuple[Rows, list[set[int]]]:
        committed = commit_rows(policy, evaluated.rows, values)
        return evaluated.rows, [evaluated.at(n, committed) for n in range(len(committed))]

    trial.run(oracle, tensors)


@pytest.mark.parametrize("kind", sorted(kinds("score")))
@given(data=st.data())
def test_score(kind: str, data: st.DataObject) -> None:
    def oracle(asked: Asked) -> list[Judged]:
        judged = asked.policy.oracle(asked.rows, asked.progress, asked.memory)
        assert [row.position for row in judged] == [row.position for row in asked.rows]
        orders = [row.doubt if row.order is None else row.order for row in judged]
        return [(r.candidate, r.doubt, order) for r, order in zip(judged, orders, strict=True)]

    def tensors(
        policy: Score, evaluated: Evaluated, values: dict[str, Tensor], _: Tensor
    ) -> tuple[Rows, list[list[Judged]]]:
        rows = policy.judge(evaluated.rows, values)
        order = rows.doubt if rows.order is None else rows.order
        ends, found = rows.offered.sum(-1).tolist(), []
        for n, end in enumerate(ends):
            columns = (table[n, :end].tolist() for table in (rows.ids, rows.doubt, order))
            found.append(list(zip(*columns, strict=True)))
        return rows, found

    trial = Trial(data, kinds("score")[kind], torch.float64)
    trial.run(
        oracle,
        tensors,
        key=lambda outcome: [candidate for candidate, _, _ in outcome],
        agree=lambda found, expected: all(map(judged_alike, found, expected)),
    )


def judged_alike(found: Judged, expected: Judged) -> bool:
    (candidate, *numbers), (their_candidate, *their_numbers) = found, expected
    return candidate == their_candidate and all(map(close, numbers, their_numbers))


@pytest.mark.parametrize("kind", sorted(kinds("belief")))
@given(data=st.data())
def test_belief(kind: str, data: st.DataObject) -> None:
    trial = Trial(data, kinds("belief")[kind], torch.float64)
    policy = trial.policies[0]
    assert isinstance(policy, Belief)
    if not policy.width:
        assert not trial.entries
        return
    assert trial.entries["belief.ids"].shape == (policy.width,)
    assert trial.entries["belief.weights"].shape == (policy.width,)

    def oracle(asked: Asked) -> tuple[dict[int, dict[int, float]], bool]:
        # What is not mixed anew is fed what it was fed; at first the mask.
        fed = asked.memory.setdefault("fed by the test", {})
        own = asked.memory.setdefault("of the oracle", {})
        mixtures, held = asked.policy.mixtures(asked.rows, asked.progress, own)
        fed |= mixtures
        masked = [row.position for row in asked.rows if row.masked]
        return {position: fed.get(position, {MASK: 1.0}) for position in masked}, held

    def tensors(
        policy: Belief, evaluated: Evaluated, values: dict[str, Tensor], _: Tensor
    ) -> tuple[Rows, list[tuple[dict[int, dict[int, float]], bool]]]:
        rows, held = policy.observe(evaluated.rows, values)
        count = len(rows.ids)
        flags = [False] * count if held is None else held.tolist()
        return rows, [(mixtures_of(rows, n), flags[n]) for n in range(count)]

    trial.run(
        oracle,
        tensors,
        key=lambda outcome: ({p: present(mixed) for p, mixed in outcome[0].items()}, outcome[1]),
        agree=lambda found, expected: found[1] == expected[1] and alike(found[0], expected[0]),
    )


def mixtures_of(rows: Rows, decision: int) -> dict[int, dict[int, float]]:
    """What masked positions are fed, weights by token."""
    ids, weights = rows.memory["belief.ids"], rows.memory["belief.weights"]
    found: dict[int, dict[int, float]] = {}
    for i, position in enumerate(rows.positions[decision].tolist()):
        if rows.masked[decision, i]:
            mixed = found.setdefault(position, {})
            pairs = zip(ids[decision, i].tolist(), weights[decision, i].tolist(), strict=True)
            for token, weight in pairs:
                mixed[token] = mixed.get(token, 0.0) + weight
    return found


def present(mixed: dict[int, float]) -> set[int]:
    return {token for token, weight in mixed.items() if abs(weight) > 1e-12}


def alike(found: dict[int, dict[int, float]], expected: dict[int, dict[int, float]]) -> bool:
    return found.keys() == expected.keys() and all(
        close(found[p].get(token, 0.0), expected[p].get(token, 0.0))
        for p in found
        for token in found[p].keys() | expected[p].keys()
    )


@pytest.mark.parametrize("kind", sorted(kinds("verify")))
@given(data=st.data())
def test_verify(kind: str, data: st.DataObject) -> None:
    if not changes("verify", kind, "accept"):
        return

    def oracle(asked: Asked) -> set[int]:
        found: set[int] = asked.policy.accept_oracle(asked.eligible, asked.committed, asked.said)
        assert found <= asked.places
        return found

    def tensors(
        policy: Verify, evaluated: Evaluated, values: dict[str, Tensor], committed: Tensor
    ) -> tuple[Rows, list[set[int]]]:
        accepted = policy.accept(evaluated.rows, committed, values)
        return evaluated.rows, [evaluated.at(n, accepted) for n in range(len(accepted))]

    Trial(data, kinds("verify")[kind], data.draw(DTYPES), helped=True).run(oracle, tensors)


@pytest.mark.parametrize("kind", sorted(kinds("revise")))
@given(data=st.data())
def test_revise(kind: str, data: st.DataObject) -> None:
    def oracle(asked: Asked) -> tuple[set[int], set[int]]:
        return asked.policy.oracle(asked.rows, asked.committed, asked.progress, asked.memory)

    def tensors(
        policy: Revise, evaluated: Evaluated, values: dict[str, Tensor], committed: Tensor
    ) -> tuple[Rows, list[tuple[set[int], set[int]]]]:
        rows, (replaced, reopened) = policy.select(evaluated.rows, committed, values)
        # Only what was committed before is taken back, in one way; padding is nothing.
        assert not (replaced & reopened).any()
        assert not ((replaced | reopened) & (rows.masked | ~rows.offered)).any()
        assert policy.reopens or not reopened.any()
        count = len(replaced)
        return rows, [(evaluated.at(n, replaced), evaluated.at(n, reopened)) for n in range(count)]

    trial = Trial(data, kinds("revise")[kind], data.draw(DTYPES))
    trial.run(oracle, tensors, changes=lambda outcome: outcome)


@pytest.mark.parametrize("kind", sorted(kinds("schedule")))
@given(data=st.data())
def test_schedule_end(kind: str, data: st.DataObject) -> None:
    if not changes("schedule", kind, "end"):
        return

    def oracle(asked: Asked) -> int:
        end: int = asked.policy.end_oracle(asked.rows, asked.progress)
        assert asked.rows[0].position < end <= asked.rows[-1].position + 1
        return end

    def tensors(
        policy: Schedule, evaluated: Evaluated, values: dict[str, Tensor], _: Tensor
    ) -> tuple[Rows, list[int]]:
        return evaluated.rows, policy.end(evaluated.rows, values).tolist()

    Trial(data, kinds("schedule")[kind], data.draw(DTYPES), opening=True).run(oracle, tensors)


@pytest.mark.parametrize("kind", sorted(kinds("stop")))
@given(data=st.data())
def test_stop_fills(kind: str, data: st.DataObject) -> None:
    if not changes("stop", kind, "fills"):
        return

    def oracle(asked: Asked) -> bool:
        filled = asked.policy.fills_oracle(asked.eligible, asked.progress, asked.memory)
        return filled and bool(asked.eligible)

    def tensors(
        policy: Stop, evaluated: Evaluated, values: dict[str, Tensor], _: Tensor
    ) -> tuple[Rows, list[bool]]:
        rows, filled = policy.fills(evaluated.rows, values)
        anything = rows.eligible.any(-1)
        filled = torch.zeros_like(anything) if filled is None else filled
        return rows, (filled & anything).tolist()

    trial = Trial(data, kinds("stop")[kind], data.draw(DTYPES))
    trial.run(oracle, tensors)


@pytest.mark.parametrize("kind", sorted(kinds("stop")))
@given(data=st.data())
def test_stop_cut(kind: str, data: st.DataObject) -> None:
    if not changes("stop", kind, "cut"):
        return
    eos_ids = data.draw(st.lists(st.sampled_from(EOS), max_size=2, unique=True))

    def oracle(asked: Asked) -> int | None:
        cut = asked.policy.cut_oracle(asked.rows, asked.committed, eos_ids, asked.progress)
        assert cut is None or cut > asked.rows[0].position
        return None if cut is None or cut >= SLOTS else int(cut)

    def tensors(
        policy: Stop, evaluated: Evaluated, values: dict[str, Tensor], committed: Tensor
    ) -> tuple[Rows, list[int | None]]:
        ends = torch.tensor(eos_ids, dtype=torch.int64)
        cut = policy.cut(evaluated.rows, committed, ends, values)
        places = [SLOTS] * len(committed) if cut is None else cut.tolist()
        return evaluated.rows, [place if place < SLOTS else None for place in places]

    trial = Trial(data, kinds("stop")[kind], data.draw(DTYPES))
    trial.run(oracle, tensors)


@pytest.mark.parametrize("kind", sorted(kinds("stop")))
@given(data=st.data())
def test_stop(kind: str, data: st.DataObject) -> None:
    policy = drawn(data, kinds("stop")[kind])
    assert isinstance(policy, Stop)
    rows = data.draw(st.integers(1, 8))
    response = st.lists(st.integers(0, VOCAB - 1), min_size=rows, max_size=rows)
    responses = data.draw(st.lists(response, min_size=1, max_size=4))
    eos_ids = data.draw(st.lists(st.integers(0, MASK - 1), max_size=2, unique=True))
    finished = policy.finished(
        torch.tensor(responses), MASK, torch.tensor(eos_ids, dtype=torch.int64)
    )
    assert finished.tolist() == [policy.oracle(row, MASK, eos_ids) for row in responses]


@pytest.mark.parametrize("kind", sorted(kinds("cache")))
@given(data=st.data())
def test_cache(kind: str, data: st.DataObject) -> None:
    policy, spec, standing = standing_of(kind, data)
    found = policy.evaluate(standing, spec)
    rows, offered, refresh = policy.oracle(standing, spec)
    assert list(found.rows) == sorted(rows)
    assert list(found.head[:1] if found.first_only else found.head) == sorted(offered)
    assert found.refresh == refresh
    assert (found.keeps, found.kept) == (policy.keeps(standing), policy.reads_kept(standing))
    assert offered <= set(range(*standing.block))
    # Every row that commits is evaluated, or predicted by one that is.
    assert offered <= rows | {position + spec.logit_shift for position in rows}


@pytest.mark.parametrize("kind", sorted(kinds("cache")))
@given(data=st.data())
def test_with_room_for_several_tokens_the_next_evaluations_cover_the_same_rows(
    kind: str, data: st.DataObject
) -> None:
    if not changes("cache", kind, "room"):
        return
    policy, spec, standing = standing_of(kind, data)
    if "drafts" in policy.exclusions:
        return
    inside = sorted(standing.masked.intersection(range(*standing.block)))
    found = policy.evaluate(standing, spec)
    for count in range(1, min(policy.room(standing, spec), len(inside) + 1)):
        masked = standing.masked.difference(data.draw(st.permutations(inside))[:count])
        steps = data.draw(st.integers(1, count))
        later = replace(
            standing,
            step=standing.step + steps,
            outer_steps=standing.outer_steps + steps,
            evaluations=standing.evaluations + steps,
            committed=count + (0 if found.refresh else standing.committed),
            since_refresh=steps + (0 if found.refresh else standing.since_refresh),
            first_masked=standing.whole[0] in masked,
            masked=masked,
            was_masked=standing.masked,
        )
        assert policy.evaluate(later, spec).rows == found.rows


def standing_of(kind: str, data: st.DataObject) -> tuple[Cache, DenoiserSpec, Standing]:
    """A cache policy, a denoiser that it serves, and where a sequence may stand."""
    policy = drawn(data, kinds("cache")[kind])
    assert isinstance(policy, Cache)
    shift = data.draw(st.sampled_from([0, 1]))
    spec = DenoiserSpec(mask_id=0, vocab_size=2, max_length=64, logit_shift=shift)
    outer = 0, 40
    if data.draw(st.booleans(), label="block-causal"):
        spec = spec.model_copy(update={"attention": "block_causal", "block_length": 8})
        first = data.draw(st.integers(0, 4))
        outer = 8 * first, 8 * first + 8
    try:
        policy.check_model(spec)
    except ConfigError:
        assume(False)
    start = data.draw(st.integers(max(outer[0], 1), outer[1] - 1))
    end = data.draw(st.integers(start + 1, min(outer[1], start + 24)))
    whole = start
    if spec.attention == "block_causal":
        whole = data.draw(st.integers(outer[0], start))
    here = range(start, end)
    masked = subset(data, here).union(subset(data, range(end, outer[1])))
    step = data.draw(st.integers(0, 3))
    decoded = sum(position not in masked for position in here)
    return (
        policy,
        spec,
        Standing(
            block=(start, end),
            whole=(whole, end),
            outer=outer,
            reach=outer[1],
            step=step,
            outer_steps=step + data.draw(st.integers(0, 3)),
            # A block begins with a refresh, or with what the last one left.
            committed=data.draw(st.integers(0, decoded if step else 20)),
            first_masked=whole in masked,
            exact=8 * data.draw(st.integers(0, outer[0] // 8)),
            since_refresh=data.draw(st.integers(min(step, 1), 9)),
            # The prompt's end fills what of the block is not decoded.
            prompt=start if whole < start else data.draw(st.integers(1, start)),
            masked=masked,
            was_masked=masked.union(subset(data, here)),
            evaluations=step + data.draw(st.integers(0, 9)),
            coming=tuple(data.draw(st.permutations(sorted(subset(data, here) & masked)))),
        ),
    )


def subset(data: st.DataObject, positions: Sequence[int]) -> frozenset[int]:
    flags = data.draw(st.integers(0, 2 ** len(positions) - 1))
    return frozenset(p for i, p in enumerate(positions) if flags >> i & 1)
