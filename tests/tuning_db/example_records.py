from __future__ import annotations

from typing import Any

from dllmc.spec import HardwareKey
from dllmc.tuning_db import (
    AppliesTo,
    Key,
    ModelKey,
    Provenance,
    Quality,
    Range,
    Record,
    Speed,
    SplitId,
    Workload,
)

CPU = HardwareKey(kind="cpu", name="Generic CPU", architecture="avx2", units=2)
WEIGHTS = "a1" * 32
FAST = {"commit": {"kind": "threshold", "threshold": 0.7}}


def key(
    *,
    task: str | None = "copy",
    batch: int = 16,
    max_new_tokens: int = 32,
    weights: str = WEIGHTS,
    family: str = "llada",
    dtype: str = "float32",
    hardware: HardwareKey = CPU,
    torch: str = "2.13.0",
    driver: str | None = None,
    execution: str = "inductor-dynamic",
    numerics: str = "float32-inductor-highest",
    name: str = "embedded",
) -> Key:
    return Key(
        model=ModelKey(name=name, family=family, weights_sha256=weights, dtype=dtype),
        hardware=hardware,
        software={"torch": torch} | ({} if driver is None else {"driver": driver}),
        execution=execution,
        numerics=numerics,
        workload=Workload(task=task, max_new_tokens=max_new_tokens, batch=batch),
    )


def record(
    *,
    config: dict[str, Any] = FAST,
    batches: tuple[int, int] = (1, 16),
    lengths: tuple[int, int] | None = None,
    status: Any = "confirmed",
    margin: float = 0.02,
    started: str = "2026-11-01T12:00:00+00:00",
    lower_bound: float = -0.01,
    ratio: float = 1.5,
    **circumstances: Any,
) -> Record:
    of = key(**circumstances)
    length = of.workload.max_new_tokens
    split = SplitId(n=300, sha256="0" * 64)
    return Record(
        key=of,
        applies_to=AppliesTo(
            batch=Range(low=batches[0], high=batches[1]),
            max_new_tokens=Range(
                low=(lengths or (length, length))[0], high=(lengths or (length, length))[1]
            ),
        ),
        config=config,
        speed=Speed(
            n=8,
            ratio=ratio,
            interval=(ratio - 0.1, ratio + 0.1),
            reference_ratio=6.0,
            reference_interval=(5.0, 7.0),
            tokens_per_second=900.0,
            nfe_mean=4.0,
        ),
        quality=Quality(
            metric="exact",
            n=300,
            reference_value=0.98,
            value=0.98,
            difference=0.0,
            lower_bound=lower_bound,
            margin=margin,
            p_value=0.01,
            test="exact",
            split="confirm",
            outcomes_sha256="0" * 64,
        ),
        status=status,
        reason=None if status == "confirmed" else "nothing passed",
        provenance=Provenance(
            study="copy-0",
            trial=3,
            seed=0,
            started=started,
            command="dllmc tune embedded --task copy",
            tune=split,
            confirm=split,
            noise_floor=0.01,
            margin=margin,
        ),
    )
