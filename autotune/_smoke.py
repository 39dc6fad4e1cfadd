"""The smoke prompts of a record that is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.artifact import Package
from dllmc.runtime.smoke import smoke_of

if TYPE_CHECKING:
    from dllmc.autotune.evaluator import Batch, Evaluator
    from dllmc.policies.config import DecodingConfig
    from dllmc.tuning_db import Smoke


def smoke_prompts(evaluator: Evaluator, config: DecodingConfig, batch: Batch) -> tuple[Smoke, ...]:
    """A few prompts of `batch` with what `config` answers; none where the engine has no model."""
    engine = evaluator.engine
    package: object = engine.package
    if not isinstance(package, Package):
        return ()
    prompts = [engine.encode(sample.prompt) for sample in batch.samples]
    return smoke_of(engine, config, prompts, evaluator.key.workload.max_new_tokens)
