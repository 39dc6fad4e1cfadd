"""One sequence being decoded: where it stands, as the host knows it."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from dllmc.policies.constrain import check_length
from dllmc.policies.layout import Block, lay_out, window_at
from dllmc.policies.standing import BlockProgress, Evaluation, Part, Standing
from dllmc.runtime.counts import Counts
from dllmc.runtime.trace import TraceStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.constrain._automaton import TokenAutomaton
    from dllmc.policies.rows import Remembered
    from dllmc.runtime.advance import Advance
    from dllmc.runtime.need import Need
    from dllmc.spec import DenoiserSpec


class DecodeState:
    """One sequence being decoded.

    Args:
        spec: Of the denoiser.
        prompt: Token ids.
        config: How to decode.
        max_new_tokens: Length of the response.
        stream: Tells apart sequences that share a seed.
        automaton: What the response must be, if anything.

    Raises:
        ConfigError: The response cannot be decoded like this.
        PromptError: The prompt does not fit.
    """

    def __init__(
        self,
        spec: DenoiserSpec,
        prompt: Sequence[int],
        config: DecodingConfig,
        max_new_tokens: int,
        stream: int,
        automaton: TokenAutomaton | None = None,
    ) -> None:
        padded = spec.prepare_prompt(prompt, max_new_tokens)
        config.check_model(spec)
        self.spec = spec
        self.config = config
        self.stream = stream
        self.prompt = padded
        self.response_start = len(padded)
        self.response_end = len(padded) + max_new_tokens
        self.length, self.blocks = lay_out(config.schedule, spec, len(padded), max_new_tokens)
        config.commit.check(max_new_tokens, len(self.blocks))
        self.tokens = padded + [spec.mask_id] * (self.length - len(padded))
        self.masked = set(range(self.response_start, self.length))
        self.was_masked = frozenset(self.masked)
        self.row = -1
        self.block_index = 0
        self.step = 0
        self.outer_step = 0
        self.unmasked_steps = 0
        self.since_refresh = 0
        self.committed = 0
        self.exact = 0
        self.begun = 0
        # Asked for in every step, and the same in all.
        self.remembered: dict[str, Remembered] = {}
        for policy in config.policies:
            self.remembered |= policy.remembers(spec)
        self.structure = config.structure
        self._statistics = config.statistics
        self.automaton = automaton
        self._text = (self.response_start, 0)
        if automaton is not None:
            check_length(automaton, max_new_tokens)
            self._text = (self.response_start, automaton.start)
        self.known = 0
        self.pending = False
        self.auxiliary_nfe = 0
        self.passes = 0
        self.passes_left = 0
        self._seen: tuple[int, ...] = ()
        self.nfe = 0
        self.draws = 0
        self.done = False
        self.opened = time.perf_counter()
        self.first_block_seconds: float | None = None
        self._first_end = self.blocks[0].span[1]
        self.trace: list[TraceStep] = []
        self.needs: list[tuple[Need, int]] = []
        self.known_needs: dict[tuple[object, ...], Need] = {}
        self._evaluation: Evaluation | None = None
        self._begin_blocks()

    @property
    def current(self) -> Block:
        """The block that is decoded."""
        return self.blocks[self.block_index]

    @property
    def remaining(self) -> int:
        """Masked positions of the block."""
        return sum(position in self.masked for position in range(*self.current.span))

    @property
    def progress(self) -> BlockProgress:
        """Where the sequence stands in its block."""
        start, end = self.current.span
        return BlockProgress(
            step=self.step + self.passes,
            masks=end - start,
            blocks=len(self.blocks),
            remaining=self.remaining,
            length=self.current.length,
            offset=start - self.response_start,
            response=self.length - self.response_start,
            evaluations=self.draws,
        )

    @property
    def counts(self) -> Counts:
        """What is counted of its evaluations."""
        return Counts(self.step, self.outer_step, self.exact, self.since_refresh, self.draws)

    def expect(self, evaluation: Evaluation) -> None:
        """What to evaluate next, where it was foreseen."""
        self._evaluation = evaluation

    @property
    def opening(self) -> bool:
        """Whether the next evaluation decides where the block ends."""
        return self._opens(self.evaluation())

    def _opens(self, evaluation: Evaluation) -> bool:
        # One that only appends a finished block sees nothing of the next.
        sees = evaluation.rows[-1] >= self.current.outer[0]
        return self.config.schedule.adapts and self.step == 0 and sees

    @property
    def reach(self) -> int:
        """What lies before this position is all that the current block can see."""
        last = self.blocks[self.begun - 1] if self.config.schedule.pipelined else self.current
        return last.outer[1]

    @property
    def standing(self) -> Standing:
        """What the cache policy decides by."""
        block, last = self.current, self.current
        if self.config.schedule.pipelined:
            last = self.blocks[self.begun - 1]
        return Standing(
            block=(block.span[0], last.span[1]),
            whole=(block.whole[0], last.span[1]),
            outer=(block.outer[0], last.outer[1]),
            reach=self.reach,
            step=self.step,
            outer_steps=self.outer_step,
            committed=self.committed,
            first_masked=block.whole[0] in self.masked,
            exact=self.exact,
            since_refresh=self.since_refresh,
            prompt=self.response_start,
            masked=frozenset(self.masked),
            was_masked=self.was_masked,
            evaluations=self.draws,
            coming=self.config.coming(
                self.masked.intersection(range(*block.span)), self.progress, self.stream
            ),
        )

    def evaluation(self) -> Evaluation:
        """What to evaluate next."""
        if self._evaluation is None and self.passes_left:
            self._evaluation = Evaluation(self._seen, self._seen, refresh=False, joint=True)
        if self._evaluation is None:
            found = self.config.cache.evaluate(self.standing, self.spec)
            if self._opens(found) and len(found.head) == 1:
                # The schedule must see the whole window, whatever may commit.
                window = range(*self.current.span)
                found = dataclasses.replace(found, head=window, first_only=True)
            if self.config.schedule.pipelined:
                spans = [range(*part.span) for part in self.parts()]
                head = tuple(p for p in found.head if any(p in span for span in spans))
                found = dataclasses.replace(found, head=head)
            self._evaluation = found
        return self._evaluation

    def parts(self) -> list[Part]:
        """What the next evaluation decides over, each apart."""
        if not self.config.schedule.pipelined:
            return [Part(self.current.span)]
        spans = [block.span for block in self.blocks]
        return self.config.schedule.active(spans, self.masked, self.begun)

    def drafts(self) -> list[int]:
        """Drafts to fill in on each canvas that the next evaluation evaluates at once."""
        lanes = self.config.verify.lanes
        if lanes == 1 or self.step == 0 or len(self.evaluation().head) < 2 or self.opening:
            return [0]
        room = min(self.config.cache.room(self.standing, self.spec), self.remaining)
        return [n for n in self.config.commit.drafts(self.progress, lanes) if n < max(room, 1)]

    def text_state(self, position: int) -> int:
        """The state of the constraint's automaton before `position`, all before it committed."""
        assert self.automaton is not None
        begun, state = self._text
        for token in self.tokens[begun:position]:
            state = int(self.automaton.table[state, self.automaton.classes[token]])
        self._text = (position, state)
        return state

    @property
    def statistics(self) -> str:
        """The statistics set that the next evaluation needs."""
        return self.statistics_of(self.evaluation())

    def statistics_of(self, evaluation: Evaluation) -> str:
        """The statistics set that an evaluation needs."""
        if not evaluation.joint:
            return self._statistics if evaluation.head else "none"
        return "+".join(part for part in self._statistics.split("+") if part != "hidden")

    def advance(self, did: Advance) -> None:
        """Account for one evaluation."""
        evaluation, masks, block = self.evaluation(), self.remaining, self.block_index
        self._evaluation = None
        if not evaluation.joint:
            self.was_masked = frozenset(self.masked)
        for position, token in (*did.committed.items(), *did.replaced.items()):
            self.tokens[position] = token
        for position in did.reopened:
            self.tokens[position] = self.spec.mask_id
        self.masked = self.masked.difference(did.committed).union(did.reopened)
        self._count(evaluation, did, masks)
        self._reshape(did)
        settled = self.config.revise.settled(masks, len(did.replaced), self.unmasked_steps)
        if self.config.schedule.slides:
            self._slide()
        elif self.config.verify.auxiliary == "block" and not self.remaining:
            self.pending = True
        else:
            self._leave_blocks(settled=settled)
        self._begin_blocks()
        revises = self.config.revise.kind != "none"
        stopped = did.finished and (not revises or self.step == 0) and not self.pending
        self.done = stopped or self.block_index == len(self.blocks)
        self._ask_jointly(evaluation, same_block=self.block_index == block)
        first = range(self.response_start, min(self._first_end, self.length))
        if self.first_block_seconds is None and self.masked.isdisjoint(first):
            self.first_block_seconds = time.perf_counter() - self.opened

    def _ask_jointly(self, evaluation: Evaluation, *, same_block: bool) -> None:
        """Let the joint sampler be asked next, as often as it may after an evaluation."""
        passes = self.config.verify.passes
        self.passes_left = self.passes_left - 1 if evaluation.joint else passes
        single = evaluation.first_only or len(evaluation.head) == 1
        self._seen = ()
        if self.passes_left > 0 and same_block and not (single or self.done):
            span = range(*self.current.span)
            self._seen = tuple(p for p in evaluation.head if p in span)
        if not self.masked.intersection(self._seen):
            self.passes_left = 0

    def judged(self, taken: Sequence[int]) -> None:
        """Keep of the finished block what the auxiliary model would have taken as well.

        Args:
            taken: At each position of the block, and at the one after it.
        """
        start, end = self.current.span
        same = [self.tokens[p] == t for p, t in zip(range(start, end), taken, strict=False)]
        kept = start + (same.index(False) if False in same else len(same))
        # One more token is the auxiliary model's own, also after a block that stays whole.
        written = {kept: taken[kept - start]} if kept < self.length else {}
        reopened = range(kept + 1, end)
        for position in reopened:
            self.tokens[position] = self.spec.mask_id
        for position, token in written.items():
            self.tokens[position] = token
        self.masked = self.masked.union(reopened).difference(written)
        self.known, self.pending = kept, False
        told = sorted({**written, **dict.fromkeys(reopened, self.spec.mask_id)}.items())
        self.trace.append(
            TraceStep(
                nfe=self.nfe,
                rows=(),
                positions=tuple(position for position, _ in told),
                tokens=tuple(token for _, token in told),
                confidences=tuple(1.0 for _ in told),
                revised=tuple(position for position, _ in told if position < end),
                plan="auxiliary",
            )
        )
        self._go_on(min(kept + 1, self.length))

    def _go_on(self, start: int) -> None:
        """End the block at `start`, and lay out anew what follows."""
        place = self.response_start, self.length - self.response_start
        ahead = self.config.schedule.blocks(place[0] + place[1] - start)
        following = [
            Block((start + a, min(start + b, self.length)), self.current.outer, b - a)
            for a, b in ahead
        ]
        self.blocks = [*self.blocks[: self.block_index], self.current.ending(start), *following]
        self._next_block()
        response = self.tokens[self.response_start : self.length]
        ended = self.config.stop.oracle(response, self.spec.mask_id, self.spec.eos_ids)
        self.done = ended or self.block_index == len(self.blocks)

    def _slide(self) -> None:
        """Move the window to the first masked position."""
        if not self.masked:
            self.block_index = len(self.blocks)
            return
        start = self.known = min(self.masked)
        width = self.config.schedule.blocks(self.length - start)[0][1]
        end = min(start + width, self.length)
        self.blocks = [Block((start, end), (0, end), end - start)]

    def _leave_blocks(self, *, settled: bool) -> None:
        """Go on from blocks that are finished."""
        while self.block_index < len(self.blocks) and not self.remaining and settled:
            self._next_block()
            if not self.config.schedule.pipelined:
                break

    def _count(self, evaluation: Evaluation, did: Advance, masks: int) -> None:
        if self.needs and self.needs[-1][0] == did.need:
            self.needs[-1] = (did.need, self.needs[-1][1] + 1)
        else:
            self.needs.append((did.need, 1))
        if evaluation.joint:
            self.draws += did.steps
            self.auxiliary_nfe += 1
            self.passes += 1
            self.committed += len(did.committed)
            return
        self.nfe += 1
        self.committed = len(did.committed) + (0 if evaluation.refresh else self.committed)
        start = self.current.outer[0]
        self.unmasked_steps += masks == 0 and evaluation.rows[-1] >= start
        counts = self.counts.after(evaluation, start, did.steps)
        self.step, self.outer_step, self.exact, self.since_refresh, self.draws = counts

    def _reshape(self, did: Advance) -> None:
        """End the block where its schedule chose, and the response where it was cut."""
        if did.end is not None:
            self.blocks[self.block_index] = self.current.ending(did.end)
            if self.block_index == 0:
                self._first_end = did.end
        if did.cut is not None and did.cut < self.length:
            self.length = did.cut
            del self.tokens[did.cut :]
            self.masked = {position for position in self.masked if position < did.cut}
            kept = [block for block in self.blocks if block.span[0] < did.cut]
            self.blocks = [block.before(did.cut) for block in kept]

    def _begin_blocks(self) -> None:
        """Begin the next block of a pipeline if it is time; never fewer than are finished."""
        if self.config.schedule.pipelined:
            response = self.tokens[self.response_start :]
            ended = self.config.stop.cuts and any(t in self.spec.eos_ids for t in response)
            spans = [block.span for block in self.blocks]
            self.begun = self.config.schedule.begun(spans, self.masked, self.begun, ended=ended)

    def _next_block(self) -> None:
        outer, end = self.current.outer, self.current.span[1]
        self.block_index += 1
        self.step = self.unmasked_steps = self.passes = 0
        if self.config.schedule.adapts and end < self.length:
            following = window_at(
                self.config.schedule, self.spec, end, self.response_start, self.length
            )
            self.blocks.append(following)
        if self.block_index < len(self.blocks) and self.current.outer != outer:
            self.outer_step = 0

    @property
    def output(self) -> list[int]:
        """The response, up to and with its first end-of-sequence token if such a token stops."""
        if not self.config.stop.cuts:
            return self.response
        for index, token in enumerate(self.response):
            if token == self.spec.mask_id:
                break
            if token in self.spec.eos_ids:
                return self.response[: index + 1]
        return self.response

    @property
    def response(self) -> list[int]:
        """The tokens after the prompt, masks included."""
        return self.tokens[self.response_start : self.response_end]
