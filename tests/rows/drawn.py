"""Policies of any kind with drawn knobs, and drawn evaluations for both of their sides."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st
from rows.given import given
from rows.made import GREEDY, MASK, SLOTS, SPEC, VOCAB, Evaluated, Store, matching

from dllmc.policies.axes import Schedule
from dllmc.policies.standing import BlockProgress
from dllmc.reference.evaluation import predict
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from dllmc.policies._base import Knob, Policy
    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows

    Table = NDArray[np.float64]

# With some values often, so that there are ties; infinity is what an overflowing mass gives.
DOUBTS = (0.0, 1e-30, 0.1, 0.5, 3.0, 1e30, math.inf)
# What vanishes and what overflows; exact in float32, as are the others.
LOGITS = (-1000.0, -30.0, 0.0, 1.0, 20.0)
TALL = (1000.0, 40.0)
_SAID = "candidate", "logit", "margin", "tail_mass", "logits"
TOKENS = st.integers(0, VOCAB - 2)


def of(knob: Knob, default: Any) -> st.SearchStrategy[Any]:
    """Values of a knob, as it is declared."""
    if knob.choices:
        return st.sampled_from(knob.choices)
    assert knob.low is not None
    assert knob.high is not None
    if isinstance(default, float) or isinstance(knob.low, float):
        return st.floats(knob.low, knob.high)
    return st.just(default) | st.integers(int(knob.low), min(int(knob.high), 40))


def drawn(data: st.DataObject, of_kind: type[Policy], **fixed: Any) -> Policy:
    """A policy with drawn knobs; a field of token ids has ids of the small vocabulary."""
    values = given(of_kind) | fixed
    for name, declared in of_kind.model_fields.items():
        if name in fixed:
            continue
        if name in of_kind.knobs():
            values[name] = data.draw(of(of_kind.knobs()[name], declared.default), label=name)
        elif declared.annotation in (tuple[int, ...], tuple[int, ...] | None):
            values[name] = tuple(data.draw(st.lists(TOKENS, min_size=1, max_size=2, unique=True)))
    try:
        return of_kind(**values)
    except ConfigError:
        assume(False)
        raise


def together(data: st.DataObject, kind: type[Policy], count: int) -> list[Policy]:
    """Policies whose sequences may be evaluated together: all but their values is the same."""
    first = drawn(data, kind)
    free = {name for name, knob in kind.knobs().items() if not knob.structural}
    shared = {name: value for name, value in dict(first).items() if name not in free}
    found = [first, *(drawn(data, kind, **shared) for _ in range(count - 1))]
    assert len({policy.structure() for policy in found}) == 1
    return found


def nudged(policy: Policy, factor: float) -> Policy:
    """The policy with all its knobs that are real numbers so much larger."""
    values = {
        name: value * factor
        for name, value in dict(policy).items()
        if name in policy.knobs() and isinstance(value, float)
    }
    return policy.model_copy(update=values)


def stacked(
    policies: list[Policy], progresses: list[BlockProgress], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Their knobs as the runtime hands them to tensor functions."""
    values = [
        policy.values(progress) for policy, progress in zip(policies, progresses, strict=True)
    ]
    assert all(value.keys() == values[0].keys() for value in values)
    return {n: torch.tensor([value[n] for value in values], dtype=dtype) for n in values[0]}


@dataclass(frozen=True)
class Asked:
    """What an oracle is asked: one decision of one evaluation.

    Attributes:
        policy: Whose oracle it is.
        rows: All that were offered.
        places: Positions that may commit.
        committed: Those of them that commit now.
        progress: Of the block.
        memory: Of the oracle.
        single: Whether one row was offered alone.
        waits: Whether the decision may commit nothing.
        said: What an auxiliary model says of the eligible rows, if there is one.
    """

    policy: Any
    rows: list[Prediction]
    places: set[int]
    committed: set[int]
    progress: BlockProgress
    memory: Memory
    single: bool
    waits: bool
    said: list[Table]

    @property
    def eligible(self) -> list[Prediction]:
        """Those that may commit."""
        return [row for row in self.rows if row.position in self.places]


@dataclass(frozen=True)
class Nudge:
    """A change so small that no decision should hang on it.

    Attributes:
        step: Evaluation of the change.
        factor: Of the knobs.
        sort: Of the rows that are predicted otherwise, or None.
        says: What is predicted of these, by field.
    """

    step: int = 0
    factor: float = 1.0
    sort: int | None = None
    says: Mapping[str, Any] = field(default_factory=dict)


class Trial:
    """A policy's two sides over successive evaluations of one block, memory carried.

    Rows are of a few sorts; those of one sort have the same logits in each evaluation, so that
    doubts tie. A case is dropped where an oracle would decide otherwise after the least nudge of
    a knob, or of the logits of one sort: there rounding decides, and ties do not.

    Args:
        data: To draw from.
        kind: Of the policies.
        dtype: Of the tensors.
        evaluations: To make; a policy that remembers nothing makes one.
        judged: Whether doubts may be others than the odds, and order and flags be any.
        opening: Whether the rows are the window that a schedule that adapts offers first.
        helped: Whether an auxiliary model says something of each row.
    """

    def __init__(
        self,
        data: st.DataObject,
        kind: type[Policy],
        dtype: torch.dtype,
        *,
        evaluations: int = 3,
        judged: bool = False,
        opening: bool = False,
        helped: bool = False,
    ) -> None:
        count, sorts = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
        self.policies = together(data, kind, count)
        self.entries = self.policies[0].remembers(SPEC)
        if self.entries:
            # Several evaluations, and nudges in each of them, take their time.
            self.policies, sorts = self.policies[:2], min(sorts, 2)
        count = len(self.policies)
        # The numbers follow from a seed: a draw for each would take most of the time.
        self.random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        self.dtype, self.judged, self.opening, self.helped = dtype, judged, opening, helped
        self.evaluations = evaluations if self.entries else 1
        self.needs = self._needs()
        self.offsets = self.random.integers(0, 24, count)
        self.responses = self.offsets + self.random.integers(1, 48, count)
        self.earlier = self.random.integers(0, 40, count)
        self.lengths = self.random.integers(1, 7, count)
        if opening:
            self.lengths = self._windows()
        self.shape = count, int(self.lengths.max())
        self.positions = self._positions()
        self.tables = self._tables(sorts)
        self.sorts = self.random.integers(0, sorts, self.shape)
        self.alone = self.random.random(count) < 0.5 if self.entries else np.zeros(count, bool)
        self.tokens = torch.full(self.shape, MASK)
        if not self.entries and not opening:
            self.tokens = torch.where(self._flags(), MASK, self._tokens())
        self.doubts, self.ordered = judged & (self.random.random(2) < 0.5)
        self.blocks = int(self.random.integers(1, 5))
        self.nudges = self._every_nudge(1e-6 if dtype == torch.float64 else 1e-4)

    def run(
        self,
        oracle: Callable[[Asked], Any],
        tensors: Callable[[Policy, Evaluated, dict[str, Tensor], Tensor], tuple[Rows, list[Any]]],
        *,
        key: Callable[[Any], Any] = lambda outcome: outcome,
        agree: Callable[[Any, Any], bool] = lambda found, expected: bool(found == expected),
        changes: Callable[[Any], tuple[set[int], set[int]]] = lambda _: (set(), set()),
    ) -> None:
        """Compare the sides in every evaluation.

        Args:
            oracle: The outcome of one decision.
            tensors: Rows with new memory, and the outcomes of all decisions, from the policy
                (whose values do not count), what was evaluated, values, and what commits.
            key: What of an outcome no nudge may change.
            agree: Whether two outcomes are the same.
            changes: Positions that an outcome gives their candidate, and those it masks again.
        """
        store = Store(self.entries, len(self.policies), self.dtype)
        memories: list[Memory] = [{} for _ in self.policies]
        shaken: dict[tuple[int, int], Memory] = {}
        for step in range(self.evaluations):
            evaluated, committed, progresses = self._evaluate(step, store)
            expected = []
            for n, memory in enumerate(memories):
                before = copy.deepcopy(memory)
                asked = self._asked(n, evaluated, committed, progresses[n], memory)
                expected.append(oracle(asked))
                for index, nudge in self._nudges_of(n, step):
                    if (index, n) not in shaken:
                        shaken[index, n] = copy.deepcopy(before)
                    again = oracle(self._nudged(asked, n, step, nudge, shaken[index, n]))
                    assume(key(again) == key(expected[n]))
            values = stacked(self.policies, progresses, self.dtype)
            rows, found = tensors(self.policies[0], evaluated, values, committed)
            for n, outcome in enumerate(found):
                assert agree(outcome, expected[n]), (outcome, expected[n])
            store.keep(evaluated.rows.positions, rows.memory)
            self._move_on(evaluated.rows, committed, [changes(outcome) for outcome in expected])

    def _evaluate(self, step: int, store: Store) -> tuple[Evaluated, Tensor, list[BlockProgress]]:
        count, length = self.shape
        limits = np.where(self.alone & (step == 0), 1, self.lengths)
        offered = torch.arange(length) < torch.tensor(limits)[:, None]
        positions = torch.where(offered, self.positions, SLOTS)
        flags = {"single": torch.tensor(limits == 1)}
        if self.judged:
            flags = {"single": self._flags()[:, 0], "waits": self._flags()[:, 0]}
        evaluated = matching(
            torch.tensor(self.tables[step])[torch.tensor(self.sorts)],
            needs=self.needs,
            dtype=self.dtype,
            memory=store.recall(positions),
            tokens=self.tokens,
            offered=offered,
            eligible=(self._flags() | self.opening) & offered & (self.tokens == MASK),
            positions=positions,
            counters=torch.tensor([[7, n, step] for n in range(count)]),
            **flags,
        )
        changes = {"doubt": self.doubts, "order": self.ordered}
        others = {name: self._doubts() for name, changed in changes.items() if changed}
        evaluated = replace(evaluated, rows=evaluated.rows.having(**others))
        if self.helped:
            said = self._said(torch.tensor(self.tables[step])[torch.tensor(self.sorts)])
            having = {**evaluated.rows.extra, "auxiliary": said.to(self.dtype)}
            evaluated = replace(evaluated, rows=evaluated.rows.having(extra=having))
        masked = evaluated.rows.masked.sum(-1).tolist()
        progresses = [self._progress(n, step, masked[n]) for n in range(count)]
        return evaluated, evaluated.rows.eligible & self._flags(), progresses

    def _asked(
        self,
        decision: int,
        evaluated: Evaluated,
        committed: Tensor,
        progress: BlockProgress,
        memory: Memory,
    ) -> Asked:
        rows, found = evaluated.rows, evaluated.predictions[decision]
        if self.doubts:
            doubts = rows.doubt[decision].tolist()
            found = [row.having(doubt=doubts[i]) for i, row in enumerate(found)]
        if rows.order is not None:
            order = rows.order[decision].tolist()
            found = [row.having(order=order[i]) for i, row in enumerate(found)]
        return Asked(
            policy=self.policies[decision],
            rows=found,
            places=evaluated.at(decision, rows.eligible),
            committed=evaluated.at(decision, committed),
            progress=progress,
            memory=memory,
            single=bool(rows.single[decision]),
            waits=bool(rows.waits[decision]),
            said=self._said_of(evaluated, decision),
        )

    def _nudges_of(self, decision: int, step: int) -> Iterator[tuple[int, Nudge]]:
        """Those that matter to a decision by now."""
        sorts = {None, *self.sorts[decision].tolist()}
        for index, nudge in enumerate(self.nudges):
            if nudge.step <= step and nudge.sort in sorts:
                yield index, nudge

    def _nudged(
        self, asked: Asked, decision: int, step: int, nudge: Nudge, memory: Memory
    ) -> Asked:
        rows = asked.rows
        if nudge.says and nudge.step == step:
            doubt = () if self.doubts else ("doubt",)
            says = {name: nudge.says[name] for name in (*_SAID, *doubt)}
            rows = [
                row.having(**says) if sort == nudge.sort else row
                for row, sort in zip(rows, self.sorts[decision].tolist(), strict=False)
            ]
        policy = asked.policy if nudge.factor == 1 else nudged(asked.policy, nudge.factor)
        return replace(asked, policy=policy, rows=rows, memory=memory)

    def _progress(self, decision: int, step: int, remaining: int) -> BlockProgress:
        length = int(self.lengths[decision])
        numbers = {"step": step, "masks": length, "remaining": remaining, "length": length}
        if not self.entries and not self.opening:
            free = self.random.integers((0, 1, 1, 1), 41).tolist()
            numbers = dict(zip(numbers, free, strict=True))
        return BlockProgress(
            blocks=self.blocks,
            offset=int(self.offsets[decision]),
            response=int(self.responses[decision]),
            evaluations=int(self.earlier[decision]) + numbers["step"],
            **numbers,
        )

    def _move_on(
        self, rows: Rows, committed: Tensor, changes: list[tuple[set[int], set[int]]]
    ) -> None:
        self.tokens = torch.where(committed, rows.ids, self.tokens)
        for n, (replaced, reopened) in enumerate(changes):
            for i, position in enumerate(rows.positions[n].tolist()):
                if position in replaced:
                    self.tokens[n, i] = rows.ids[n, i]
                if position in reopened:
                    self.tokens[n, i] = MASK

    def _every_nudge(self, margin: float) -> list[Nudge]:
        found = [Nudge(factor=1 - margin), Nudge(factor=1 + margin)]
        ramp = np.linspace(-margin, margin, VOCAB)
        for step, sort in np.ndindex(*self.tables.shape[:2]):
            logits = self.tables[step, sort]
            lone = np.zeros(VOCAB)
            lone[logits[:MASK].argmax()] = margin
            for by in (lone, -lone, ramp, -ramp):
                told = predict(logits + by, 0, 0, MASK, SPEC, GREEDY, (0, 0, 0))
                found.append(Nudge(step, 1.0, sort, vars(told)))
        return found

    def _needs(self) -> list[str]:
        """What the policies need, and sometimes more, as another policy may ask for more."""
        found = sorted(set[str]().union(*(policy.needs for policy in self.policies)))
        more = int(self.random.integers(0, 3))
        return [f"top{int(name[3:]) + more}" if name.startswith("top") else name for name in found]

    def _tables(self, sorts: int) -> Table:
        """Logits by evaluation, sort and token; an evaluation may say what the last one said."""
        shape = self.evaluations, sorts, VOCAB
        grid = self._often(LOGITS, self.random.uniform(-6, 6, shape), 0.2)
        for step in range(1, self.evaluations):
            nearly = grid[step - 1] + self.random.choice([0.02, 0.2]) * self.random.normal(
                size=shape[1:]
            )
            alike = self.random.random(sorts) < self.random.choice([0.3, 1.0])
            grid[step] = np.where(alike[:, None], nearly, grid[step])
        if self.random.random() < 0.5:
            grid[:, 0, MASK] = self.random.choice(TALL)
        return np.round(grid * 256) / 256

    def _windows(self) -> NDArray[np.int64]:
        """Rows that each schedule offers first."""
        offered = []
        for policy, offset, response in zip(
            self.policies, self.offsets.tolist(), self.responses.tolist(), strict=True
        ):
            assert isinstance(policy, Schedule)
            offered.append(min(policy.window(offset, response), response - offset))
        return np.array(offered)

    def _positions(self) -> Tensor:
        """Ascending, with gaps; what a window or an auxiliary model covers has none."""
        dense = self.opening or self.helped
        gaps = self.random.choice([1] if dense else [1, 1, 2, 4], self.shape)
        gaps[:, 0] = self.offsets + self.random.integers(1, 9)
        return torch.tensor(gaps).cumsum(-1)

    def _said(self, logits: Tensor) -> Tensor:
        """What an auxiliary model says of rows, often something like what the denoiser says."""
        noise = self.random.normal(size=tuple(logits.shape)) * self.random.choice([0.5, 3.0])
        return torch.tensor(np.round((logits.clamp(-6, 6).numpy() + noise) * 256) / 256)

    def _said_of(self, evaluated: Evaluated, decision: int) -> list[Table]:
        if not self.helped:
            return []
        said = evaluated.rows.extra["auxiliary"][decision].double().numpy()
        flags = evaluated.rows.eligible[decision].tolist()
        return [row for row, flag in zip(said, flags, strict=True) if flag]

    def _tokens(self) -> Tensor:
        return torch.tensor(self.random.integers(0, VOCAB - 1, self.shape))

    def _flags(self) -> Tensor:
        return torch.tensor(self.random.random(self.shape) < self.random.choice([0.5, 0.5, 0.9]))

    def _doubts(self) -> Tensor:
        plain = np.exp(self.random.uniform(-7, 4, self.shape))
        return torch.tensor(self._often(DOUBTS, plain, 0.4), dtype=self.dtype)

    def _often(self, special: tuple[float, ...], plain: Table, often: float) -> Table:
        """Numbers, and often special ones."""
        chosen = self.random.random(plain.shape) < often
        return np.where(chosen, self.random.choice(special, plain.shape), plain)
