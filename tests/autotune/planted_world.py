"""An engine whose speed and quality are known, so that a tuner can be judged."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dllmc.spec import DenoiserSpec, HardwareKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dllmc.policies.config import DecodingConfig

CPU = HardwareKey(kind="cpu", name="Planted", architecture="none", units=1)
REFERENCE_QUALITY = 0.95
SPACE: dict[str, Any] = {
    "schedule": "blocks",
    "belief": "mask",
    "score": "probability",
    "commit": ["factor", "quota", "threshold"],
    "cache": ["dual", "none", "prefix"],
    "verify": "none",
    "revise": "none",
}
"""What this world knows the cost and the quality of."""


def uniform(*words: object) -> float:
    """A number in [0, 1) that depends on `words` alone."""
    text = "/".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


def evaluations(config: DecodingConfig) -> float:
    """NFE per prompt."""
    blocks = 32 / config.schedule.block_length
    commit = config.commit
    if commit.kind == "quota":
        return commit.steps or 32
    if commit.kind == "factor":
        return 6 + 6 / commit.factor + 0.5 * (blocks - 1)
    return 2 + 16 * commit.threshold + 0.5 * (blocks - 1)


def seconds_per_prompt(config: DecodingConfig) -> float:
    """True cost of a prompt."""
    per_step = {"none": 1.0, "prefix": 0.7, "dual": 0.45}[config.cache.kind]
    if config.cache.refresh_every is not None:
        per_step += 0.2 / config.cache.refresh_every
    return 0.004 * per_step * evaluations(config)


def loss(config: DecodingConfig) -> float:
    """True loss of right answers against the reference.

    Lossless down to a threshold of 0.6, to 16 steps and to a factor of 1.2; the dual cache costs
    8 points unless blocks are short.
    """
    commit, lost = config.commit, 0.0
    if commit.kind == "quota":
        lost += max(0.0, 16 - (commit.steps or 32)) * 0.05
    elif commit.kind == "factor":
        lost += max(0.0, commit.factor - 1.2) * 0.4
    else:
        lost += max(0.0, 0.6 - commit.threshold)
    if config.cache.kind == "dual" and config.schedule.block_length > 8:
        lost += 0.08
    return min(lost, 0.9)


@dataclass
class PlantedEngine:
    """Decodes prompts of the form `word: answer`; wrong where the plan says so.

    Args:
        noise: Relative half-width of the timing noise.
        discordance: Share of prompts where a lossless configuration and the reference differ in
            being right.
        pause: Real seconds per second of the plan, which the clock counts; otherwise time is `now`
            and passes for free.
        log: Called with configuration and prompts before each batch.
    """

    noise: float = 0.02
    discordance: float = 0.004
    pause: float | None = None
    log: Callable[[str, list[str]], None] | None = None
    loss: Callable[[DecodingConfig], float] = loss
    now: float = 0.0
    calls: int = 0
    spec: DenoiserSpec = field(
        default_factory=lambda: DenoiserSpec(mask_id=0, vocab_size=9, max_length=96)
    )
    name: str = "planted"
    weights_sha256: str = "ab" * 32
    dtype: str = "float32"
    backend: str = "eager"
    device: str = "cpu"
    hardware: HardwareKey = CPU
    software: dict[str, str] = field(default_factory=lambda: {"torch": "2.13.0"})
    execution: str = "eager"
    numerics: str = "float32/eager/cpu/highest"
    database: Path | None = None
    package: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            graph_sha256=None, passes_sha256=None, records=[], precision=None
        )
    )

    def clock(self) -> float:
        return self.now if self.pause is None else time.perf_counter() / self.pause

    def right(self, prompts: list[str], config: DecodingConfig) -> list[bool]:
        """Whether the answers to `prompts` are right."""
        share, text = REFERENCE_QUALITY - self.loss(config), config.canonical_json()
        reference = config.commit.kind == "quota" and config.commit.steps is None
        discordance = 0.0 if reference else self.discordance
        return [
            (uniform("difficulty", p) < share) != (uniform("flip", p, text) < discordance)
            for p in prompts
        ]

    def generate(
        self,
        prompt: list[str],
        *,
        max_new_tokens: int | None = None,
        config: Any = "auto",
        task: str | None = None,
        batch: int | None = None,
    ) -> SimpleNamespace:
        self.calls += 1
        text = config.canonical_json()
        if self.log is not None:
            self.log(text, prompt)
        jitter = 1 + self.noise * (2 * uniform("noise", self.calls) - 1)
        seconds = seconds_per_prompt(config) * len(prompt) * jitter
        self.now += seconds
        if self.pause is not None:
            time.sleep(seconds * self.pause)
        answers = [
            p.partition(":")[2].strip() if right else "wrong"
            for p, right in zip(prompt, self.right(prompt, config), strict=True)
        ]
        nfe = round(evaluations(config))
        return SimpleNamespace(
            text=answers,
            tokens=[list(answer.encode()) for answer in answers],
            nfe=[nfe] * len(prompt),
            plans=[[("refresh", 1), ("block", nfe - 1)]] * len(prompt),
        )
