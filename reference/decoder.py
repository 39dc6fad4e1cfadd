"""The rules of decoding in their plainest form.

Every step evaluates the whole canvas; a cache is reproduced by what attention may see. Nothing
here is shared with the runtime but the policies, and of those only the oracles are called.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dllmc.policies.constrain import advance_oracle
from dllmc.policies.progress import commit_oracle, surest_first
from dllmc.policies.standing import BlockProgress, part_progress
from dllmc.policies.verify._joint_layer import load_layer
from dllmc.policies.verify.joint_sampler import JointSampler
from dllmc.reference._place import Place
from dllmc.reference._trace import StepTrace
from dllmc.reference.auxiliary import next_tokens
from dllmc.reference.evaluation import predict
from dllmc.reference.memory import Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import nn

    from dllmc.policies.axes import Memory
    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.rows import Prediction
    from dllmc.spec import DenoiserSpec


class ReferenceDecoder(Place):
    """Decodes one prompt, one evaluation per `step`.

    Args:
        module: Token ids `[1, T]` int64 -> logits `[1, T, vocab_size]`, attending by
            `scaled_dot_product_attention` if `config` has a cache. It runs in its own dtype.
        spec: What the module does not say of itself.
        prompt: Token ids.
        config: How to decode.
        max_new_tokens: Length of the response.
        stream: Tells the sequences of a batch apart when sampling.
        auxiliary: The autoregressive model that the verify policy asks, if it does.
        tokenizer: Of the model, if the response is constrained.

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
        auxiliary: nn.Module | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        given = prompt, config, max_new_tokens, stream, auxiliary, tokenizer
        super().__init__(module, spec, *given)
        self._memory: dict[str, Memory] = {p.axis: {} for p in config.policies}
        self._mixtures: dict[int, dict[int, float]] = {}
        self._carried: Prediction | None = None
        self._hidden: dict[int, NDArray[np.float64]] = {}
        self._carried_hidden: NDArray[np.float64] = np.zeros(0)
        self._judged: list[Prediction] = []

    @property
    def output(self) -> list[int]:
        """The response, up to and with its first end-of-sequence token if such a token stops."""
        if self.config.stop.cuts:
            for index, token in enumerate(self.response):
                if token in self.spec.eos_ids:
                    return self.response[: index + 1]
        return self.response

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
        if self._passes_left:
            return self._pass(follow)
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
        logits = self._evaluator.logits(*given, reach=standing.reach, reads_kept=kept)
        found = [self._predict(logits, p, rows, refresh) for p in sorted(offered)]
        trace = self._decide(found, single, tuple(sorted(rows)), refresh)
        trace = replace(trace, single=single)
        self._write(trace if follow is None else follow)
        return trace

    def _pass(self, follow: StepTrace | None = None) -> StepTrace:
        """A decision on what the joint sampler makes of the last evaluation's hidden states."""
        verify, places = self.config.verify, self._seen
        assert isinstance(verify, JointSampler)
        layer = load_layer(verify.path)
        tokens = [self.canvas[position] for position in places]
        hidden = [self._hidden[position] for position in places]
        logits = self._evaluator.head.logits(layer, hidden, tokens, places)
        counters = self.config.seed, self.stream, self._draws
        found = [
            predict(row, position, position, token, self.spec, self.config, counters)
            for row, position, token in zip(logits, places, tokens, strict=True)
        ]
        single = len(places) == 1
        trace = self._decide(found, single, places, refresh=False)
        trace = replace(trace, single=single, joint=True)
        self._write(trace if follow is None else follow)
        return trace

    def _drafts(self) -> list[list[int]]:
        """The canvas, and what it would be after each further draft that is verified with it."""
        standing = self._standing()
        _, offered, _ = self.config.cache.oracle(standing, self.spec)
        lanes = self.config.verify.lanes
        if lanes == 1 or self._step_of_block == 0 or len(offered) < 2:
            return [self.canvas]
        still = offered & self._masked()  # a schedule may have seen beyond the block
        masked = [row for row in self._judged if row.position in still]
        room = max(1, min(self.config.cache.room(standing, self.spec), self._remaining()))
        found = []
        for count in self.config.commit.drafts(self.progress, lanes):
            if count < room:
                canvas = list(self.canvas)
                for index in surest_first(masked)[:count]:
                    canvas[masked[index].position] = masked[index].candidate
                found.append(canvas)
        return found

    def _predict(
        self, logits: NDArray[np.float64], position: int, rows: set[int], refresh: bool
    ) -> Prediction:
        """What this evaluation says of `position`."""
        row = position - self.spec.logit_shift
        carries = getattr(self.config.cache, "window_first", "self") == "carried"
        token = self.canvas[position]
        counters = self.config.seed, self.stream, self._draws
        if carries and not refresh and row not in rows:
            assert self._carried is not None
            masked = token == self.spec.mask_id
            self._hidden[position] = self._carried_hidden
            return self._carried.having(token=token, masked=masked, counters=counters)
        # The first row of a window has none before it: it predicts itself, as published.
        row = row if row in rows else position
        found = predict(logits[row], row, position, token, self.spec, self.config, counters)
        if self.config.verify.passes:
            self._hidden[position] = self._evaluator.head.hidden[row]
        if refresh and position == self._current.span[0]:
            self._carried = found
            self._carried_hidden = self._hidden.get(position, np.zeros(0))
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

    def _constrained(self, found: list[Prediction]) -> list[Prediction]:
        """The predictions with candidates that the constraint allows."""
        assert self._automaton is not None
        text = self.canvas[self._response_start : found[0].position]
        state = advance_oracle(text, self._automaton.start, self._automaton)
        last = min(found[-1].position + 1, self._response_end)
        place = state, self._response_end - last, self._response_end
        return self.config.constrain.candidates_oracle(found, *place, self._automaton)

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
        if self._automaton is not None:
            found = self._constrained(found)
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
        if config.verify.auxiliary == "step":
            committed = config.verify.accept_oracle(eligible, committed, self._said_of(eligible))
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

    def _said_of(self, rows: Sequence[Prediction]) -> list[NDArray[np.float64]]:
        """What the auxiliary model says of each position after the candidates before it."""
        assert self._auxiliary is not None
        canvas = list(self.canvas)
        for row in rows:
            canvas[row.position] = row.candidate
        logits = next_tokens(self._auxiliary, canvas[: rows[-1].position + 1])
        self.auxiliary_nfe += 1
        return [logits[row.position - 1] for row in rows]
