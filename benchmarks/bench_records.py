"""Published records on prompts of the test split: `python benchmarks/bench_records.py [--db ...]`.

No other step has seen these prompts. Each confirmed record of the embedded model is decoded beside
`QUALITY_REFERENCE`; what is lost is compared with the margin that the record promises.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _measure import write_results
from rich.console import Console
from rich.progress import track
from rich.table import Table

import dllmc
from dllmc.autotune import noninferiority
from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.tasks import get_task
from dllmc.tuning_db import Record, Store

if TYPE_CHECKING:
    from dllmc.runtime import Engine

SHIPPED = Path(__file__).parents[1] / "tuning_db" / "records"


def right(engine: Engine, record: Record, config: DecodingConfig, prompts: int) -> list[bool]:
    """Whether each test prompt is answered right."""
    workload = record.key.workload
    task = get_task(str(workload.task))
    found: list[bool] = []
    samples = task.samples("test", prompts, 0)
    for start in range(0, len(samples), workload.batch):
        group = samples[start : start + workload.batch]
        out = engine.generate(
            [sample.prompt for sample in group],
            max_new_tokens=workload.max_new_tokens,
            config=config,
            batch=workload.batch,
        )
        found += [task.score(s, text) for s, text in zip(group, out.text, strict=True)]
    return found


def check(engine: Engine, record: Record, prompts: int) -> dict[str, Any]:
    """One row."""
    reference = right(engine, record, QUALITY_REFERENCE, prompts)
    own = right(engine, record, DecodingConfig(**record.config), prompts)
    wins = sum(o > r for o, r in zip(own, reference, strict=True))
    losses = sum(o < r for o, r in zip(own, reference, strict=True))
    n, margin = len(own), record.margin
    difference = (wins - losses) / n
    assert record.quality is not None
    return {
        "record": record.id,
        "task": record.key.workload.task,
        "n": n,
        "reference": sum(reference) / n,
        "value": sum(own) / n,
        "difference": difference,
        "lower_bound": noninferiority.lower_bound(wins, losses, n, margin),
        "promised": record.quality.lower_bound,
        "margin": margin,
        "kept": difference > -margin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", default=str(SHIPPED))
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = dllmc.compile(dllmc.load_model("embedded"), backend="inductor").engine()
    records = [
        record
        for record in Store(arguments.db, read_only=True).records()
        if record.status == "confirmed"
        and record.key.model.weights_sha256 == engine.weights_sha256
    ]
    rows = [check(engine, record, arguments.prompts) for record in track(records, "records")]
    table = Table(title=f"{arguments.prompts} test prompts each")
    for column in ("task", "reference", "record", "difference", "at least", "margin", "kept"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["task"],
            f"{row['reference']:.3f}",
            f"{row['value']:.3f}",
            f"{row['difference']:+.4f}",
            f"{row['lower_bound']:+.4f}",
            f"{row['margin']:g}",
            "yes" if row["kept"] else "NO",
        )
    Console().print(table)
    print(f"written to {write_results('records', rows)}")


if __name__ == "__main__":
    main()
