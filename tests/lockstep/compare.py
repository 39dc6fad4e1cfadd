"""Lockstep: the engine and the reference decoder, step by step on the same canvases.

Both sides get the reference's canvas at every step, so that a difference cannot spread, and every
decision is compared: which rows are evaluated, which are eligible, their candidates, and which of
them commit. A difference is excused only if a float64 recomputation finds the decision within
`MARGIN` of going the other way.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dllmc.policies.axes import BlockProgress
from dllmc.reference import ReferenceDecoder, StepTrace
from dllmc.runtime.state import DecodeState, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime.engine import Engine
    from dllmc.runtime.step import StepOutcome
    from dllmc.spec import DenoiserSpec

MARGIN = 1e-5


@dataclass(frozen=True)
class Request:
    prompt: list[int]
    config: DecodingConfig
    max_new_tokens: int
    stream: int = 0


@dataclass
class Tally:
    cases: int = 0
    steps: int = 0
    decisions: int = 0
    excused: list[str] = field(default_factory=list)
    unexcused: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.steps += other.steps
        self.decisions += other.decisions
        self.excused += other.excused
        self.unexcused += other.unexcused

    def check(self) -> None:
        print(f"\nlockstep: {self}")
        assert not self.unexcused
        assert 1000 * len(self.excused) <= self.decisions

    def __str__(self) -> str:
        counts = f"{self.cases} cases, {self.steps} evaluations, {self.decisions} decisions"
        return "\n".join(
            [
                f"{counts}, {len(self.excused)} excused, {len(self.unexcused)} unexcused",
                *(f"excused: {line}" for line in self.excused),
                *(f"UNEXCUSED: {line}" for line in self.unexcused),
            ]
        )


class Pair:
    """One sequence on both sides."""

    def __init__(
        self, module: nn.Module, spec: DenoiserSpec, request: Request, state: DecodeState
    ) -> None:
        self.module, self.spec, self.request, self.state = module, spec, request, state
        self.decoder = self._decoder(module)
        self.traces: list[StepTrace] = []

    def _decoder(self, module: nn.Module) -> ReferenceDecoder:
        r = self.request
        return ReferenceDecoder(module, self.spec, r.prompt, r.config, r.max_new_tokens, r.stream)

    def exact(self) -> StepTrace:
        """The last step again, in float64."""
        decoder = self._decoder(copy.deepcopy(self.module).double())
        for trace in self.traces[:-1]:
            decoder.step(follow=trace)
        return decoder.step()

    def compare(self, pool: Pool, outcome: StepOutcome, row: int, tally: Tally) -> None:
        """Step the reference and compare with row `row` of what the engine did."""
        decoder = self.decoder
        block = decoder._blocks[min(decoder._block, len(decoder._blocks) - 1)]
        progress = BlockProgress(
            decoder._step_of_block,
            block.span[1] - block.span[0],
            len(decoder._blocks),
            decoder._remaining(),
            block.length,
        )
        before = list(decoder.canvas)
        trace = decoder.step()
        self.traces.append(trace)
        tally.steps += 1
        tally.decisions += 2 * len(trace.eligible) + len(trace.reconsidered)
        eligible = outcome.eligible[row]
        positions = outcome.positions[row][eligible].tolist()
        rows = self.state.events[-1].rows
        if tuple(range(*rows)) != trace.evaluated or tuple(positions) != trace.eligible:
            tally.unexcused.append(
                f"{self.request}: evaluated {rows} with {positions} eligible and not "
                f"{trace.evaluated} with {trace.eligible}"
            )
        else:
            candidates = outcome.ids[row][eligible].tolist()
            committed = outcome.committed[row][eligible].tolist()
            self._judge(candidates, committed, trace, progress, tally)
            self._judge_revisions(outcome, row, before, trace, tally)
        if bool((outcome.committed[row] & ~eligible).any()):
            tally.unexcused.append(f"{self.request}: committed a row that was not eligible")
        agreed = committed_by(outcome, row) == dict(trace.committed)
        self._continue_from_the_reference(pool, tally, agreed=agreed)

    def _judge_revisions(
        self, outcome: StepOutcome, row: int, before: list[int], trace: StepTrace, tally: Tally
    ) -> None:
        """What was replaced, and by what."""
        places, ids = outcome.positions[row].tolist(), outcome.ids[row].tolist()
        flags = outcome.revised[row].tolist()
        found = {p: i for p, i, flag in zip(places, ids, flags, strict=True) if flag}
        expected = {p: dict(trace.committed)[p] for p in trace.revised}
        if found == expected:
            return
        exact = {p: rest for p, *rest in self.exact().reconsidered}
        limit = self.request.config.revise.values()["doubt"]
        for place in sorted(found.keys() ^ expected.keys()):
            margin = math.inf
            if place in exact:
                _, logit, lead, doubt = exact[place]
                margin = min(lead / max(1.0, abs(logit)), relative(doubt, limit))
            what = f"revision of {before[place]} at {place}, step {len(self.traces)}"
            self._report(what, margin, tally)

    def _judge(
        self,
        candidates: list[int],
        committed: list[bool],
        trace: StepTrace,
        progress: BlockProgress,
        tally: Tally,
    ) -> None:
        written = {position for position, _ in trace.committed}
        others = [i for i, token in enumerate(trace.candidates) if token != candidates[i]]
        flips = [i for i, p in enumerate(trace.eligible) if committed[i] != (p in written)]
        if not others and not flips:
            return
        exact = self.exact()
        excused = bool(others)
        for index in others:
            scale = max(1.0, abs(exact.logits[index]))
            margin = exact.margins[index] / scale
            excused &= self._report(
                f"candidate {candidates[index]} and not {trace.candidates[index]} at "
                f"{trace.eligible[index]}, step {len(self.traces)}",
                margin,
                tally,
            )
        if flips:
            # Of another candidate the doubt is another, so what commits may follow it.
            margin = 0.0 if excused else commit_margin(self.request.config, exact, progress)
            places = [trace.eligible[index] for index in flips]
            self._report(f"commit of {places}, step {len(self.traces)}", margin, tally)

    def _report(self, what: str, margin: float, tally: Tally) -> bool:
        line = f"{what}: relative margin {margin:.1e} in float64; {self.request}"
        excused = margin < MARGIN
        (tally.excused if excused else tally.unexcused).append(line)
        return excused

    def _continue_from_the_reference(self, pool: Pool, tally: Tally, *, agreed: bool) -> None:
        """Put the engine where the reference stands; it must stand there if all was the same."""
        state, decoder = self.state, self.decoder
        canvas = pool.canvas[state.row]
        stands = (canvas[: state.length].tolist(), *standing(state))
        masked = {p for p, token in enumerate(decoder.canvas) if token == self.spec.mask_id}
        should = (
            decoder.canvas,
            decoder.nfe,
            decoder.done,
            decoder._block,
            decoder._step_of_block,
            decoder._step_of_outer,
            decoder._unmasked_steps,
            decoder._committed_since_refresh,
            decoder._exact,
            masked,
        )
        if agreed and stands != should:
            tally.unexcused.append(f"{self.request}: stands at {stands} and not at {should}")
        canvas[: state.length] = torch.tensor(decoder.canvas)
        state.nfe, state.done = decoder.nfe, decoder.done
        state.block_index, state.step = decoder._block, decoder._step_of_block
        state.outer_step, state.unmasked_steps = decoder._step_of_outer, decoder._unmasked_steps
        state.committed, state.exact = decoder._committed_since_refresh, decoder._exact
        state.masked, state._evaluation = masked, None


def standing(state: DecodeState) -> tuple[Any, ...]:
    return (
        state.nfe,
        state.done,
        state.block_index,
        state.step,
        state.outer_step,
        state.unmasked_steps,
        state.committed,
        state.exact,
        state.masked,
    )


def committed_by(outcome: StepOutcome, row: int) -> dict[int, int]:
    chosen = outcome.committed[row] | outcome.revised[row]
    places, tokens = outcome.positions[row][chosen], outcome.ids[row][chosen]
    return dict(zip(places.tolist(), tokens.tolist(), strict=True))


def opened(engine: Engine, requests: Sequence[Request]) -> tuple[Pool, list[DecodeState]]:
    """As `Engine.open`, for requests that differ in configuration and length."""
    states = [
        DecodeState(engine.spec, r.prompt, r.config, r.max_new_tokens, r.stream) for r in requests
    ]
    pool = Pool.allocate(
        len(states),
        max(state.length for state in states),
        engine._shapes,
        getattr(torch, engine.dtype),
        engine.device,
    )
    for state in states:
        pool.admit(state, engine.spec.mask_id)
    return pool, states


def finish(engine: Engine, requests: Sequence[Request]) -> tuple[list[list[int]], list[int]]:
    """Responses and NFE of `requests` decoded together, each on its own way."""
    pool, states = opened(engine, requests)
    while engine.step(pool, states) is not None:
        pass
    return [pool.response(state) for state in states], [state.nfe for state in states]


def run(
    engine: Engine, module: nn.Module, spec: DenoiserSpec, requests: Sequence[Request]
) -> Tally:
    """Decode `requests` together in the engine, each beside its reference."""
    tally = Tally(cases=1)
    pool, states = opened(engine, requests)
    pairs = {
        state: Pair(module, spec, request, state)
        for state, request in zip(states, requests, strict=True)
    }
    while (outcome := engine.step(pool, states)) is not None:
        for row, state in enumerate(outcome.states):
            pairs[state].compare(pool, outcome, row, tally)
        # Padded rows write to scratch, and nothing may ever write NaN.
        assert all(bool(cache.isfinite().all()) for cache in pool.caches.values())
    assert all(pair.decoder.done for pair in pairs.values())
    return tally


def commit_margin(config: DecodingConfig, exact: StepTrace, progress: BlockProgress) -> float:
    """The smallest relative change of a doubt or a threshold that changes what commits."""
    policy: Any = config.commit
    doubts = sorted(exact.doubts)

    def gap(place: int) -> float:
        """Between the rows at `place - 1` and `place`, surest first."""
        if not 0 < place < len(doubts):
            return math.inf
        return relative(doubts[place - 1], doubts[place])

    if policy.kind in ("quota", "timesteps"):
        return gap(policy.count(progress))
    if policy.kind == "threshold":
        limit = (1 - policy.threshold) / policy.threshold
        sure = sum(doubt <= limit for doubt in doubts)
        return min([relative(doubt, limit) for doubt in doubts] + ([] if sure else [gap(1)]))
    if policy.kind == "dynamic":
        limit = (1 - policy.threshold) / policy.threshold
        enough = sum(doubt < limit for doubt in doubts) >= policy.count(progress)
        margin = min(relative(doubt, limit) for doubt in doubts)
        return margin if enough else min(margin, gap(policy.count(progress)))
    margins = []
    taken = len(doubts)
    for place in range(1, len(doubts)):
        improbability, bound = 1 / (1 + 1 / doubts[place]), policy.factor / (place + 2)
        margins.append(relative(improbability, bound))
        if improbability > bound:
            taken = place
            break
    return min([*margins, gap(taken)])


def relative(one: float, other: float) -> float:
    if one == other:
        return 0.0
    return abs(one - other) / max(abs(one), abs(other))
