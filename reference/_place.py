"""Where a sequence stands, and where it goes on after an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.policies.constrain import check_length
from dllmc.policies.layout import Block, lay_out, window_at
from dllmc.policies.standing import BlockProgress, Part, Standing
from dllmc.reference.auxiliary import greedy_token, next_tokens
from dllmc.reference.evaluation import Evaluator
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tokenizers import Tokenizer
    from torch import nn

    from dllmc.policies.config import DecodingConfig
    from dllmc.reference._trace import StepTrace
    from dllmc.spec import DenoiserSpec


class Place:
    """The bookkeeping of the reference decoder; its arguments are those of `ReferenceDecoder`."""

    def __init__(
        self,
        module: nn.Module,
        spec: DenoiserSpec,
        prompt: Sequence[int],
        config: DecodingConfig,
        max_new_tokens: int,
        stream: int = 0,
        auxiliary: nn.Module | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        config.check_model(spec)
        if not config.constrain.free and tokenizer is None:
            raise ConfigError(
                f"`constrain.kind`={config.constrain.kind!r} is about text; give the model's "
                "tokenizer"
            )
        self._automaton = None
        if tokenizer is not None and not config.constrain.free:
            self._automaton = config.constrain.automaton(tokenizer, spec)
            check_length(self._automaton, max_new_tokens)
        if config.verify.auxiliary is not None and auxiliary is None:
            raise ConfigError(
                f"`verify.kind`={config.verify.kind!r} asks an autoregressive model; give it as "
                "`auxiliary`"
            )
        self._auxiliary = auxiliary
        prepared = spec.prepare_prompt(prompt, max_new_tokens)
        self.spec, self.config, self.stream = spec, config, stream
        length, self._blocks = lay_out(config.schedule, spec, len(prepared), max_new_tokens)
        config.commit.check(max_new_tokens, len(self._blocks))
        self.canvas = prepared + [spec.mask_id] * (length - len(prepared))
        self.done = False
        self.nfe = 0
        self.auxiliary_nfe = 0
        self._passes = 0
        self._passes_left = 0
        self._seen: tuple[int, ...] = ()
        self._response_start = len(prepared)
        self._response_end = len(prepared) + max_new_tokens
        self._evaluator = Evaluator(module, spec, config, len(prepared))
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
    def progress(self) -> BlockProgress:
        """Where the sequence stands in its block."""
        start, end = self._current.span
        return BlockProgress(
            step=self._step_of_block + self._passes,
            masks=end - start,
            blocks=len(self._blocks),
            remaining=self._remaining(),
            length=self._current.length,
            offset=start - self._response_start,
            response=len(self.canvas) - self._response_start,
            evaluations=self._draws,
        )

    @property
    def _current(self) -> Block:
        return self._blocks[self._block]

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
            coming=self.config.coming(
                self._masked().intersection(range(*block.span)), self.progress, self.stream
            ),
        )

    def _remaining(self) -> int:
        return self.canvas[slice(*self._current.span)].count(self.spec.mask_id)

    def _write(self, trace: StepTrace) -> None:
        """Commit, and move on to where the next step stands."""
        masks, block, index = self._remaining(), self._current, self._block
        if not trace.joint:
            self._was_masked = self._masked()
        for position, token in trace.committed:
            self.canvas[position] = token
        for position in trace.reopened:
            self.canvas[position] = self.spec.mask_id
        self._count(trace, block, masks)
        self._reshape(trace)
        settled = self.config.revise.settled(masks, len(trace.revised), self._unmasked_steps)
        if self.config.schedule.slides:
            self._slide()
        elif self.config.verify.auxiliary == "block" and self._remaining() == 0:
            self._judge_block()
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
        self._plan_passes(trace, same_block=self._block == index)

    def _count(self, trace: StepTrace, block: Block, masks: int) -> None:
        """Count a step over `block`, which had so many masks before."""
        self._draws += trace.steps
        unmasked = len(trace.committed) - len(trace.revised)
        if trace.joint:
            self.auxiliary_nfe += 1
            self._passes += 1
            self._committed_since_refresh += unmasked
            return
        self.nfe += 1
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

    def _plan_passes(self, trace: StepTrace, *, same_block: bool) -> None:
        """Ask the joint sampler next if masks are left among what the evaluation offered."""
        allowed = self.config.verify.passes
        self._passes_left = max(0, self._passes_left - 1) if trace.joint else allowed
        if self.done or not same_block or trace.single:
            self._passes_left = 0
            return
        start, end = self._current.span
        offered = (prediction.position for prediction in trace.predictions)
        self._seen = tuple(position for position in offered if start <= position < end)
        if not self._masked().intersection(self._seen):
            self._passes_left = 0

    def _reshape(self, trace: StepTrace) -> None:
        """End the block where its schedule chose, and the canvas where the response was cut."""
        if trace.end is not None:
            self._blocks[self._block] = self._current.ending(trace.end)
        if trace.cut is not None:
            self.canvas = self.canvas[: trace.cut]
            self._evaluator.truncate(trace.cut)
            kept = [block for block in self._blocks if block.span[0] < trace.cut]
            self._blocks = [block.before(trace.cut) for block in kept]

    def _slide(self) -> None:
        """Move the window to the first masked position."""
        masked = sorted(self._masked())
        if not masked:
            self._block = len(self._blocks)
            return
        left = len(self.canvas) - masked[0]
        end = masked[0] + self.config.schedule.blocks(left)[0][1]
        self._blocks = [Block((masked[0], end), (0, end), end - masked[0])]

    def _judge_block(self) -> None:
        """Keep of a finished block what the auxiliary model would have taken, and one token more.

        What follows is masked again, and a new block begins there.
        """
        assert self._auxiliary is not None
        start, end = self._current.span
        logits = next_tokens(self._auxiliary, self.canvas[:end])
        self.auxiliary_nfe += 1
        place = start
        while place < len(self.canvas):
            token = greedy_token(logits[place - 1], self.spec.mask_id)
            agreed = place < end and self.canvas[place] == token
            self.canvas[place] = token
            place += 1
            if not agreed:
                break
        for position in range(place, end):
            self.canvas[position] = self.spec.mask_id
        following = self.config.schedule.blocks(len(self.canvas) - place)
        whole = 0, len(self.canvas)
        ahead = [Block((place + a, place + b), whole, b - a) for a, b in following]
        judged = Block((start, place), whole, place - start)
        self._blocks = [*self._blocks[: self._block], judged, *ahead]

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
        self._step_of_block = self._unmasked_steps = self._passes = 0
        if self.config.schedule.adapts and end < len(self.canvas):
            place = end, self._response_start, len(self.canvas)
            self._blocks.append(window_at(self.config.schedule, self.spec, *place))
        if self._block < len(self._blocks) and self._current.outer != outer:
            self._step_of_outer = 0
