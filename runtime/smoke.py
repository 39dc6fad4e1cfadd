"""The smoke test of a record: does its configuration still give the same tokens?

A record carries a few prompts with the hash of what they were answered. Where a record's speed is
unverified, because of another torch, dllmc, graph or device, its prompts are decoded before it is
applied: what changed the software may have changed the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dllmc.policies.config import DecodingConfig
from dllmc.spec import DllmcError
from dllmc.tuning_db import SMOKE_PROMPTS, Smoke, answer_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.runtime.engine import Engine
    from dllmc.tuning_db import Record

SmokeKey = tuple[str, tuple[Smoke, ...]]
"""Id of a record and its smoke prompts: a record that was measured again keeps its id."""


class SmokeResult(NamedTuple):
    """What a smoke test found.

    Attributes:
        prompts: Decoded.
        same: Of these, with the tokens that the record says.
        problem: Why they could not be decoded, or None.
    """

    prompts: int
    same: int
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the record."""
        return self.problem is None and self.same == self.prompts

    def __str__(self) -> str:
        if self.problem is not None:
            return f"its smoke prompts cannot be decoded: {self.problem}"
        if not self.prompts:
            return "it has no smoke prompts, so that nothing says that answers are what they were"
        return f"{self.same} of its {self.prompts} smoke prompts are answered as they were"


def smoke_of(
    engine: Engine, config: DecodingConfig, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[Smoke, ...]:
    """What a record says of the first of `prompts`, token ids, decoded together.

    Args:
        engine: What decodes.
        config: How.
        prompts: Token ids of each.
        max_new_tokens: Response length in tokens.
    """
    few = [list(prompt) for prompt in prompts[:SMOKE_PROMPTS]]
    if not few:
        return ()
    out = engine.generate(few, config=config, max_new_tokens=max_new_tokens, batch=len(few))
    return tuple(
        Smoke(prompt=tuple(prompt), answer=answer_digest(tokens))
        for prompt, tokens in zip(few, out.tokens, strict=True)
    )


def smoke_key(record: Record) -> SmokeKey:
    """What `smoke_test` remembers its result by."""
    return record.id, record.smoke


def smoke_test(engine: Engine, record: Record) -> SmokeResult:
    """Decode the smoke prompts of `record`; its engine remembers what was found."""
    if not record.smoke:
        return SmokeResult(0, 0)
    key = smoke_key(record)
    if key not in engine.smoked:
        engine.smoked[key] = _test(engine, record)
    return engine.smoked[key]


def _test(engine: Engine, record: Record) -> SmokeResult:
    said = record.smoke
    try:
        found = smoke_of(
            engine,
            DecodingConfig(**record.config),
            [smoke.prompt for smoke in said],
            record.key.workload.max_new_tokens,
        )
    except DllmcError as error:
        return SmokeResult(len(said), 0, str(error))
    return SmokeResult(len(said), sum(a == b for a, b in zip(found, said, strict=True)))
