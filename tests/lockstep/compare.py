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

from dllmc.reference import ReferenceDecoder, StepTrace
from dllmc.runtime.pool import Pool, scratch_of
from dllmc.runtime.state import DecodeState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.rows import Prediction
    from dllmc.policies.standing import BlockProgress
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
        self,
        module: nn.Module,
        spec: DenoiserSpec,
        request: Request,
        state: DecodeState,
        auxiliary: nn.Module | None = None,
    ) -> None:
        self.module, self.spec, self.request, self.state = module, spec, request, state
        self.auxiliary = auxiliary
        self.decoder = self._decoder(module, auxiliary)
        self.traces: list[StepTrace] = []

    def _decoder(self, module: nn.Module, auxiliary: nn.Module | None) -> ReferenceDecoder:
        r = self.request
        given = r.prompt, r.config, r.max_new_tokens, r.stream, auxiliary
        return ReferenceDecoder(module, self.spec, *given)

    def _again_in_float64(self) -> ReferenceDecoder:
        """Where the last step began."""
        exact = [each and copy.deepcopy(each).double() for each in (self.module, self.auxiliary)]
        assert exact[0] is not None
        decoder = self._decoder(exact[0], exact[1])
        for trace in self.traces[:-1]:
            decoder.step(follow=trace)
        return decoder

    def exact(self) -> StepTrace:
        """The last step again, in float64."""
        return self._again_in_float64().step()

    def compare(self, pool: Pool, outcome: StepOutcome, row: int, tally: Tally) -> None:
        """Step the reference and compare with row `row` of what the engine did."""
        decoder = self.decoder
        progress = decoder.progress
        trace = decoder.step()
        self.traces.append(trace)
        tally.steps += 1
        found = Found.of(self.state, outcome, row)
        tally.decisions += len(trace.eligible) + len(trace.predictions)
        if found.rows != trace.evaluated or found.offered != tuple(
            p.position for p in trace.predictions
        ):
            tally.unexcused.append(
                f"{self.request}: evaluated {found.rows} with {found.offered} offered and not "
                f"{trace.evaluated} with {[p.position for p in trace.predictions]}"
            )
        else:
            self._judge(found, trace, progress, tally)
        self._continue_from_the_reference(pool, tally, agreed=found.writes == self._writes(trace))

    def _writes(self, trace: StepTrace) -> dict[int, int]:
        return dict(trace.committed) | dict.fromkeys(trace.reopened, self.spec.mask_id)

    def _judge(
        self, found: Found, trace: StepTrace, progress: BlockProgress, tally: Tally
    ) -> None:
        """Candidates first: of another candidate all that follows is another."""
        others = [p for p in trace.predictions if p.candidate != found.candidates[p.position]]
        differs = [
            name
            for name, ours, theirs in (
                ("eligible", found.eligible, trace.eligible),
                ("commit", found.committed, dict(trace.committed).keys() - set(trace.revised)),
                ("steps", self.state.draws, self.decoder._draws),
                ("revision", found.revised, set(trace.revised)),
                ("reopening", found.reopened, set(trace.reopened)),
                ("end", found.end, trace.end),
                ("cut", found.cut, trace.cut),
            )
            if ours != theirs
        ]
        if not others and not differs:
            return
        exact = self.exact()
        certain = {p.position: p for p in exact.predictions}
        excused = bool(others)
        for prediction in others:
            place = certain[prediction.position]
            margin = place.margin / max(1.0, abs(place.logit))
            excused &= self._report(
                f"candidate {found.candidates[place.position]} and not {prediction.candidate} at "
                f"{place.position}, step {len(self.traces)}",
                margin,
                tally,
            )
        if differs:
            margin = 0.0 if excused else self._margin(exact, progress)
            self._report(f"{differs}, step {len(self.traces)}", margin, tally)

    def _margin(self, exact: StepTrace, progress: BlockProgress) -> float:
        """The least relative change of doubts that changes any decision of the step.

        Found by making all of them larger or smaller, one at a time and each by `MARGIN`, and
        asking the oracles again.
        """
        begun = self._again_in_float64()
        decided = self._again(begun, list(exact.predictions), exact)
        for index in range(len(exact.predictions)):
            for factor in (1 - MARGIN, 1 + MARGIN):
                nudged = list(exact.predictions)
                nudged[index] = scaled(nudged[index], factor)
                if self._again(begun, nudged, exact) != decided:
                    return 0.0
        return math.inf

    def _again(
        self, begun: ReferenceDecoder, predictions: list[Prediction], exact: StepTrace
    ) -> Any:
        """What would be decided from `begun`, which stays as it is."""
        decoder = copy.copy(begun)
        decoder._memory = copy.deepcopy(begun._memory)
        decoder._mixtures = dict(begun._mixtures)
        single = len(exact.eligible) == 1 and len(predictions) == 1
        found = decoder._decide(predictions, single, exact.evaluated, exact.refresh)
        return outcome_of(found)

    def _report(self, what: str, margin: float, tally: Tally) -> bool:
        line = f"{what}: relative margin {margin:.1e} in float64; {self.request}"
        excused = margin < MARGIN
        (tally.excused if excused else tally.unexcused).append(line)
        return excused

    def _continue_from_the_reference(self, pool: Pool, tally: Tally, *, agreed: bool) -> None:
        """Put the engine where the reference stands; it must stand there if all was the same."""
        state, decoder = self.state, self.decoder
        canvas = pool.canvas[state.row]
        if agreed and (ours := standing(state)) != (theirs := should_stand(decoder)):
            tally.unexcused.append(f"{self.request}: stands at {ours} and not at {theirs}")
        if agreed and canvas[: state.length].tolist() != decoder.canvas:
            tally.unexcused.append(f"{self.request}: the canvas is {canvas.tolist()}")
        canvas[: len(decoder.canvas)] = torch.tensor(decoder.canvas)
        for name, value in should_stand(decoder).items():
            setattr(state, name, value)
        state._evaluation = None


@dataclass(frozen=True)
class Found:
    """What the engine did to one sequence in one evaluation."""

    rows: tuple[int, ...]
    offered: tuple[int, ...]
    candidates: dict[int, int]
    eligible: tuple[int, ...]
    committed: set[int]
    revised: set[int]
    reopened: set[int]
    writes: dict[int, int]
    end: int | None
    cut: int | None

    @classmethod
    def of(cls, state: DecodeState, outcome: StepOutcome, row: int) -> Found:
        # What an auxiliary model made of a finished block follows the evaluation.
        step = [step for step in state.trace if step.plan != "auxiliary"][-1]
        if outcome.decisions is None:
            return cls(step.rows, (), {}, (), set(), set(), set(), {}, None, None)
        decided, rows = outcome.decisions, outcome.decisions.rows
        mine = [n for n, owner in enumerate(outcome.owners) if owner == row]
        places = rows.positions[mine].flatten().tolist()

        def where(flags: torch.Tensor) -> list[int]:
            found = flags[mine].flatten().tolist()
            return [p for p, flag in zip(places, found, strict=True) if flag]

        end = None if outcome.ends is None else outcome.ends[row]
        cut = None if outcome.cuts is None else outcome.cuts[row]
        return cls(
            rows=step.rows,
            offered=tuple(where(rows.offered)),
            candidates=dict(zip(places, rows.ids[mine].flatten().tolist(), strict=True)),
            eligible=tuple(where(rows.eligible)),
            committed=set(step.positions) - set(step.revised),
            revised=set(where(decided.replaced)),
            reopened=set(where(decided.reopened)),
            writes=dict(zip(step.positions, step.tokens, strict=True)),
            end=end,
            cut=cut,
        )


def outcome_of(trace: StepTrace) -> Any:
    return trace.eligible, trace.committed, trace.revised, trace.reopened, trace.end, trace.cut


def scaled(prediction: Prediction, factor: float) -> Prediction:
    """A prediction that is `factor` times as doubtful."""
    logits = prediction.logits.copy()
    logits[prediction.candidate] -= math.log(factor)
    return prediction.having(
        tail_mass=prediction.tail_mass * factor,
        doubt=prediction.doubt * factor,
        logit=prediction.logit - math.log(factor),
        logits=logits,
    )


def standing(state: DecodeState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _same(state.config)}


def should_stand(decoder: ReferenceDecoder) -> dict[str, Any]:
    found = {name: getattr(decoder, theirs) for name, theirs in _same(decoder.config).items()}
    return found | {
        "tokens": list(decoder.canvas),
        "masked": set(decoder._masked()),
        "length": len(decoder.canvas),
        "blocks": list(decoder._blocks),
    }


def _same(config: DecodingConfig) -> dict[str, str]:
    # Between steps that are verified together the engine does not stand anywhere; nor does it
    # count since each of them where each renews everything, which no policy asks about then.
    several = config.verify.lanes > 1
    unknown = {"was_masked"} if several else set()
    if several and config.cache.kind in ("none", "block_causal"):
        unknown |= {"committed", "since_refresh"}
    return {ours: theirs for ours, theirs in _SAME.items() if ours not in unknown}


_SAME = {
    "nfe": "nfe",
    "draws": "_draws",
    "done": "done",
    "block_index": "_block",
    "step": "_step_of_block",
    "outer_step": "_step_of_outer",
    "unmasked_steps": "_unmasked_steps",
    "committed": "_committed_since_refresh",
    "since_refresh": "_since_refresh",
    "exact": "_exact",
    "begun": "_begun",
    "passes": "_passes",
    "passes_left": "_passes_left",
    "auxiliary_nfe": "auxiliary_nfe",
    "was_masked": "_was_masked",
    "tokens": "canvas",
    "masked": "_was_masked",
    "length": "nfe",
    "blocks": "_blocks",
}


def opened(engine: Engine, requests: Sequence[Request]) -> tuple[Pool, list[DecodeState]]:
    """As `Engine.open`, for requests that differ in configuration and length."""
    states = [
        DecodeState(engine.spec, r.prompt, r.config, r.max_new_tokens, r.stream) for r in requests
    ]
    pool = Pool.allocate(
        engine.programs,
        len(states),
        max(state.length for state in states),
        getattr(torch, engine.dtype),
        engine.device,
        scratch=max(map(scratch_of, states)),
    )
    for state in states:
        pool.admit(state)
    if engine.auxiliary is not None:
        engine.auxiliary.allocate(pool)
    return pool, states


def finish(engine: Engine, requests: Sequence[Request]) -> tuple[list[list[int]], list[int]]:
    """Responses and NFE of `requests` decoded together, each on its own way."""
    pool, states = opened(engine, requests)
    while engine.step(pool, states) is not None:
        pass
    return [state.response for state in states], [state.nfe for state in states]


def run(
    engine: Engine,
    module: nn.Module,
    spec: DenoiserSpec,
    requests: Sequence[Request],
    auxiliary: nn.Module | None = None,
) -> Tally:
    """Decode `requests` together in the engine, each beside its reference."""
    tally = Tally(cases=1)
    pool, states = opened(engine, requests)
    pairs = {
        state: Pair(module, spec, request, state, auxiliary)
        for state, request in zip(states, requests, strict=True)
    }
    while (outcome := engine.step(pool, states)) is not None:
        for row, state in enumerate(outcome.states):
            pairs[state].compare(pool, outcome, row, tally)
        # Padded rows write to scratch, and nothing may ever write NaN.
        assert all(bool(cache.isfinite().all()) for cache in pool.caches.values())
    assert all(pair.decoder.done for pair in pairs.values())
    return tally
