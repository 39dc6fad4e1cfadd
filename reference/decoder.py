"""The rules of decoding in their plainest form.

Every step evaluates the whole canvas; a cache is reproduced by what attention may see. Nothing
here is shared with the runtime but the policies, and of those only the oracles are called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dllmc.policies.layout import lay_out, window_at
from dllmc.policies.progress import commit_oracle, surest_first
from dllmc.policies.standing import BlockProgress, Part, Standing, part_progress
from dllmc.reference.evaluation import Evaluator, predict
from dllmc.reference.memory import Filter

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from dllmc.policies.axes import Memory
    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.layout import Block
    from dllmc.policies.rows import Prediction
    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One evaluation and what was decided from it. Positions are those of the canvas.

    Attributes:
        evaluated: Positions evaluated, ascending.
        refresh: Whether the evaluation is a refresh by the cache's rule.
        block: Start and end of the block that is decoded.
        predictions: Of all positions that were offered, ascending, as the score judged them.
        eligible: Those of them that might commit.
        committed: Position and token of what this step commits or replaces, ascending.
        revised: Those of the positions that held another token before.
        reopened: Positions that are masked again.
        end: Where the block ends, if its schedule chose in this step.
        cut: Where the response ends, if the stop policy said so in this step.
        steps: Steps that were verified in this one evaluation.
    """

    evaluated: tuple[int, ...]
    refresh: bool
    block: tuple[int, int]
    predictions: tuple[Prediction, ...]
    eligible: tuple[int, ...]
    committed: tuple[tuple[int, int], ...]
    revised: tuple[int, ...] = ()
    reopened: tuple[int, ...] = ()
    end: int | None = None
    cut: int | None = None
    steps: int = 1


class ReferenceDecoder:
    """Decodes one prompt, one evaluation per `step`.

    Args:
        module: Token ids `[1, T]` int64 -> logits `[1, T, vocab_size]`, attending by
            `scaled_dot_product_attention` if `config` has a cache. It runs in its own dtype.
        spec: What the module does not say of itself.
        prompt: Token ids.
        config: How to decode.
        max_new_tokens: Length of the response.
        stream: Tells the sequences of a batch apart when sampling.

    Attributes:
        canvas: Prompt, padded to its slots if it has any, and response.
        done: Whether the response is finished.
        nfe: Evaluations so far.

    Raises:
        ConfigError: `config` does not fit the model or the length.
        PromptError: The prompt is empty, too long, or has an id that it may not have.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: DenoiserSpec,
        prompt: Sequence[int],
        config: DecodingConfig,
        max_new_tokens: int,
        stream: int = 0,
    ) -> None:
        config.check_model(spec)
        prepared = spec.prepare_prompt(prompt, max_new_tokens)
        self.spec, self.config, self.stream = spec, config, stream
        length, self._blocks = lay_out(config.schedule, spec, len(prepared), max_new_tokens)
        config.commit.check(max_new_tokens, len(self._blocks))
        self.canvas = prepared + [spec.mask_id] * (length - len(prepared))
        self.done = False
        self.nfe = 0
        self._response_start = len(prepared)
        self._response_end = len(prepared) + max_new_tokens
        self._evaluator = Evaluator(module, spec, config, len(prepared))
        self._memory: dict[str, Memory] = {p.axis: {} for p in config.policies}
        self._mixtures: dict[int, dict[int, float]] = {}
        self._carried: Prediction | None = None
        self._judged: list[Prediction] = []
        self._draws = 0
        self._was_masked = self._masked()
        self._block = 0
        self._step_of_block = 0
        self._step_of_outer = 0
        self._unmasked_steps = 0
        self._committed_since_refresh = 0
        self._since_refresh = 0
        self._exact = 0
        self._begun = 0
        self._begin_blocks()

    @property
    def response(self) -> list[int]:
        """The response as it stands, masks included."""
        return self.canvas[self._response_start : self._response_end]

    @property
    def output(self) -> list[int]:
        """The response, up to and with its first end-of-sequence token if such a token stops."""
        if self.config.stop.cuts:
            for index, token in enumerate(self.response):
                if token in self.spec.eos_ids:
                    return self.response[: index + 1]
        return self.response

    @property
    def progress(self) -> BlockProgress:
        """Where the sequence stands in its block."""
        start, end = self._current.span
        return BlockProgress(
            step=self._step_of_block,
            masks=end - start,
            blocks=len(self._blocks),
            remaining=self._remaining(),
            length=self._current.length,
            offset=start - self._response_start,
            response=len(self.canvas) - self._response_start,
            evaluations=self._draws,
        )

    def step(self, follow: StepTrace | None = None) -> StepTrace:
        """Evaluate once and commit.

        Args:
            follow: Commit what that step of another decoder committed, to stay on its way; the
                trace says what this one would have committed.
        """
        if follow is not None:
            return self._evaluate(follow)
        drafts = self._drafts()
        trace = self._evaluate()
        at, steps, written = 0, 1, dict(trace.committed)
        while following := [n for n in range(at + 1, len(drafts)) if drafts[n] == self.canvas]:
            # Verified in the same evaluation, on a canvas of its own.
            at, steps = following[-1], steps + 1
            trace = self._evaluate()
            written |= dict(trace.committed)
            self.nfe -= 1
        return replace(trace, committed=tuple(sorted(written.items())), steps=steps)

    def _evaluate(self, follow: StepTrace | None = None) -> StepTrace:
        """One step of decoding."""
        standing, cache = self._standing(), self.config.cache
        rows, offered, refresh = cache.oracle(standing, self.spec)
        single = len(offered) == 1
        keeps = cache.keeps(standing)
        if single and (keeps is not None or self._opens(rows)):
            offered = set(range(*self._current.span))
        if self.config.schedule.pipelined:
            decided = {p for part in self._parts() for p in range(*part.span)}
            offered &= decided
            single = len(offered) == 1
        filtered = None if keeps is None else Filter(self._current.span, *keeps)
        kept = cache.reads_kept(standing)
        given = self.canvas, rows, self._mixtures, filtered
        logits = self._evaluator.logits(*given, reads_kept=kept)
        found = [self._predict(logits, p, rows, refresh) for p in sorted(offered)]
        trace = self._decide(found, single, tuple(sorted(rows)), refresh)
        self._write(trace if follow is None else follow)
        return trace

    @property
    def _current(self) -> Block:
        return self._blocks[self._block]

    def _drafts(self) -> list[list[int]]:
        """The canvas, and what it would be after each further draft that is verified with it."""
        standing = self._standing()
        _, offered, _ = self.config.cache.oracle(standing, self.spec)
        lanes = self.config.verify.lanes
        if lanes == 1 or self._step_of_block == 0 or len(offered) < 2:
            return [self.canvas]
        masked = [row for row in self._judged if self.canvas[row.position] == self.spec.mask_id]
        room = max(1, min(self.config.cache.room(standing), self._remaining()))
        found = []
        for count in self.config.commit.drafts(self.progress, lanes):
            if count < room:
                canvas = list(self.canvas)
                for index in surest_first(masked)[:count]:
                    canvas[masked[index].position] = masked[index].candidate
                found.append(canvas)
        return found

    def _opens(self, rows: Collection[int]) -> bool:
        """Whether evaluating `rows` decides where the block ends."""
        # Appending a finished block shows nothing of the next.
        begins = self._step_of_block == 0 and max(rows) >= self._current.outer[0]
        return self.config.schedule.adapts and begins

    def _masked(self) -> frozenset[int]:
        return frozenset(p for p, token in enumerate(self.canvas) if token == self.spec.mask_id)

    def _standing(self) -> Standing:
        block, last = self._current, self._current
        if self.config.schedule.pipelined:
            last = self._blocks[self._begun - 1]
        return Standing(
            block=(block.span[0], last.span[1]),
            whole=(block.whole[0], last.span[1]),
            outer=(block.outer[0], last.outer[1]),
            reach=last.outer[1],
            step=self._step_of_block,
            outer_steps=self._step_of_outer,
            committed=self._committed_since_refresh,
            first_masked=self.canvas[block.whole[0]] == self.spec.mask_id,
            exact=self._exact,
            since_refresh=self._since_refresh,
            prompt=self._response_start,
            masked=self._masked(),
            was_masked=self._was_masked,
            evaluations=self._draws,
        )

    def _remaining(self) -> int:
        return self.canvas[slice(*self._current.span)].count(self.spec.mask_id)

    def _predict(
        self, logits: NDArray[np.float64], position: int, rows: set[int], refresh: bool
    ) -> Prediction:
        """What this evaluation says of `position`."""
        row = position - self.spec.logit_shift
        carries = getattr(self.config.cache, "window_first", "self") == "carried"
        token = self.canvas[position]
        if carries and not refresh and row not in rows:
            assert self._carried is not None
            return self._carried.having(token=token, masked=token == self.spec.mask_id)
        # The first row of a window has none before it: it predicts itself, as published.
        row = row if row in rows else position
        counters = self.config.seed, self.stream, self._draws
        found = predict(logits[row], row, position, token, self.spec, self.config, counters)
        if refresh and position == self._current.span[0]:
            self._carried = found
        return found

    def _decide(
        self, found: list[Prediction], single: bool, evaluated: tuple[int, ...], refresh: bool
    ) -> StepTrace:
        """What the policies make of the predictions, part by part."""
        parts = self._parts()
        if len(parts) == 1:
            decided = [self._decide_part(found, single, evaluated, self.progress, waits=False)]
        else:
            decided = []
            for part in parts:
                rows = [row for row in found if part.span[0] <= row.position < part.span[1]]
                place = part, self._masked(), self._response_start
                progress = part_progress(self.progress, *place)
                part_of = rows, single, evaluated, progress
                decided.append(self._decide_part(*part_of, waits=part.waits))
        cuts = [part.cut for part in decided if part.cut is not None]
        return replace(
            decided[0],
            refresh=refresh,
            predictions=tuple(row for part in decided for row in part.predictions),
            eligible=tuple(position for part in decided for position in part.eligible),
            committed=tuple(pair for part in decided for pair in part.committed),
            revised=tuple(position for part in decided for position in part.revised),
            reopened=tuple(position for part in decided for position in part.reopened),
            cut=min(cuts, default=None),
        )

    def _decide_part(
        self,
        found: list[Prediction],
        single: bool,
        evaluated: tuple[int, ...],
        progress: BlockProgress,
        *,
        waits: bool,
    ) -> StepTrace:
        """What the policies make of the predictions of one part; the order of their rules."""
        config, memory = self.config, self._memory
        judged = config.score.oracle(found, progress, memory["score"])
        self._judged = judged
        end = config.schedule.end_oracle(judged, progress) if self._opens(evaluated) else None
        eligible = [r for r in judged if r.masked and (end is None or r.position < end)]
        if single:
            eligible = [row for row in eligible if row.position == judged[0].position]
        mixtures, held = config.belief.mixtures(judged, progress, memory["belief"])
        filled = config.stop.fills_oracle(eligible, progress, memory["stop"])
        chosen = commit_oracle(config.commit, eligible, progress, single=single, waits=waits)
        committed = {eligible[index].position for index in chosen}
        if filled:
            committed = {row.position for row in eligible}
        if held:
            committed = set()
        replaced, reopened = config.revise.oracle(judged, committed, progress, memory["revise"])
        cut = config.stop.cut_oracle(judged, committed, self.spec.eos_ids, progress)
        self._mixtures |= mixtures
        by_position = {row.position: row.candidate for row in judged}
        return StepTrace(
            evaluated,
            False,
            self._current.span,
            tuple(judged),
            tuple(row.position for row in eligible),
            tuple((p, by_position[p]) for p in sorted(committed | replaced)),
            tuple(sorted(replaced)),
            tuple(sorted(reopened)),
            end,
            None if cut is None or cut >= len(self.canvas) else cut,
        )

    def _write(self, trace: StepTrace) -> None:
        """Commit, and move on to where the next step stands."""
        masks, block = self._remaining(), self._current
        self._was_masked = self._masked()
        for position, token in trace.committed:
            self.canvas[position] = token
        for position in trace.reopened:
            self.canvas[position] = self.spec.mask_id
        self.nfe += 1
        self._draws += trace.steps
        unmasked = len(trace.committed) - len(trace.revised)
        # K and V of a refresh are from before its own commits, so these count.
        self._committed_since_refresh = unmasked + (
            0 if trace.refresh else self._committed_since_refresh
        )
        self._since_refresh = trace.steps + (0 if trace.refresh else self._since_refresh)
        # Everything before the outer block was final when this step evaluated it.
        if set(range(self._exact, block.outer[0])) <= set(trace.evaluated):
            self._exact = max(self._exact, block.outer[0])
        if trace.evaluated[-1] >= block.outer[0]:
            self._step_of_block += trace.steps
            self._step_of_outer += trace.steps
            self._unmasked_steps += masks == 0
        self._reshape(trace)
        settled = self.config.revise.settled(masks, len(trace.revised), self._unmasked_steps)
        while self._block < len(self._blocks) and self._remaining() == 0 and settled:
            self._next_block()
            if not self.config.schedule.pipelined:
                break
        self._begin_blocks()
        finished = self.config.stop.oracle(
            self.canvas[self._response_start :], self.spec.mask_id, self.spec.eos_ids
        )
        if self.config.revise.kind != "none" and self._step_of_block > 0:
            finished = False  # what stands in this block may still be replaced
        self.done = finished or self._block == len(self._blocks)

    def _reshape(self, trace: StepTrace) -> None:
        """End the block where its schedule chose, and the canvas where the response was cut."""
        if trace.end is not None:
            self._blocks[self._block] = self._current.ending(trace.end)
        if trace.cut is not None:
            self.canvas = self.canvas[: trace.cut]
            self._evaluator.truncate(trace.cut)
            kept = [block for block in self._blocks if block.span[0] < trace.cut]
            self._blocks = [block.before(trace.cut) for block in kept]

    def _begin_blocks(self) -> None:
        """Begin the next block of a pipeline if it is time."""
        if self.config.schedule.pipelined:
            response = self.canvas[self._response_start :]
            ended = self.config.stop.cuts and any(t in self.spec.eos_ids for t in response)
            spans = [block.span for block in self._blocks]
            masked = self._masked()
            self._begun = self.config.schedule.begun(spans, masked, self._begun, ended=ended)

    def _parts(self) -> list[Part]:
        """What is decided over, each apart."""
        if not self.config.schedule.pipelined:
            return [Part(self._current.span)]
        spans = [block.span for block in self._blocks]
        return self.config.schedule.active(spans, self._masked(), self._begun)

    def _next_block(self) -> None:
        outer, end = self._current.outer, self._current.span[1]
        self._block += 1
        self._step_of_block = self._unmasked_steps = 0
        if self.config.schedule.adapts and end < len(self.canvas):
            place = end, self._response_start, len(self.canvas)
            self._blocks.append(window_at(self.config.schedule, self.spec, *place))
        if self._block < len(self._blocks) and self._current.outer != outer:
            self._step_of_outer = 0
