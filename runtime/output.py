"""What generation returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.policies.config import DecodingConfig


@dataclass(frozen=True)
class Output:
    """The response to one prompt, or lists of them for a batch of prompts.

    Attributes:
        text: Decoded response without special tokens; None where the model has no tokenizer.
        tokens: Response token ids; with EOS stop, up to and with the first EOS.
        nfe: Evaluations in which the sequence was active.
        auxiliary_nfe: Evaluations of the autoregressive model beside it, or passes of a joint
            sampler, if one was asked.
        plans: Run-length coded plans that would have run the sequence alone,
            `[(key of a Need, count), ...]`; those that ran are in the trace.
        config: How it was decoded.
        record: Id of the tuning record in force, or None.
        match: How well the record fits: `EXACT`, `BUCKET`..., `SAFE`, or `GIVEN` for a
            configuration given by the caller.
        reasons: Why this record, or why none.
        trace: A `Trace`: what each evaluation evaluated and committed.
        seconds: Wall time of the whole call.
        first_block_seconds: From when the sequence was laid out until its first block was
            committed; None where it ended before.
    """

    text: Any
    tokens: Any
    nfe: Any
    auxiliary_nfe: Any
    plans: Any
    config: DecodingConfig
    record: str | None
    match: str
    reasons: Sequence[str]
    trace: Any
    seconds: float
    first_block_seconds: Any
