"""How far configurations are from the floor of parallel decoding, for `dllmc bench --oracle`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dllmc.cli._console import progress, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.runtime.oracle import Floor

    Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Work:
    """Prompts of one task, and how they are decoded.

    Attributes:
        prompts: Token ids of each.
        length: Of the responses.
        configs: By name.
    """

    prompts: Prompts
    length: int
    configs: Mapping[str, DecodingConfig]


@dataclass(frozen=True)
class Distance:
    """Evaluations of one configuration per prompt, and those of the oracle in the same blocks."""

    block_length: int
    nfe: list[int]
    oracle: list[int]

    @property
    def ratio(self) -> float:
        """How many times those of the oracle, over all prompts."""
        return sum(self.nfe) / sum(self.oracle)


def distances(
    engine: Engine, works: Mapping[str, Work], batch: int
) -> dict[str, dict[str, Distance]]:
    """How far each configuration of each task is from the floor."""
    found: dict[str, dict[str, Distance]] = {}
    with progress() as bar:
        line = bar.add_task("", total=sum(len(work.configs) for work in works.values()))
        for task, work in works.items():
            bar.update(line, description=task)
            floors: dict[int, list[Floor]] = {}
            found[task] = {}
            for name, config in work.configs.items():
                found[task][name] = _distance(engine, work, config, batch, floors)
                bar.advance(line)
    return found


def _distance(
    engine: Engine,
    work: Work,
    config: DecodingConfig,
    batch: int,
    floors: dict[int, list[Floor]],
) -> Distance:
    from dllmc.policies.config import QUALITY_REFERENCE
    from dllmc.runtime import oracle

    block = oracle.block_of(config, work.length)
    if block not in floors:
        floors[block] = oracle.floors(
            engine,
            work.prompts,
            max_new_tokens=work.length,
            block_length=block,
            batch=batch,
        )
    known = [floor.nfe for floor in floors[block]]
    if config.replace(schedule=QUALITY_REFERENCE.schedule) == QUALITY_REFERENCE:
        return Distance(block, [floor.reference_nfe for floor in floors[block]], known)
    decoded = engine.generate(work.prompts, config=config, max_new_tokens=work.length, batch=batch)
    return Distance(block, list(decoded.nfe), known)


def distance_table(found: Mapping[str, Mapping[str, Distance]]) -> Table:
    """Mean evaluations, and the ratio to those of the oracle."""
    columns = ("block", "NFE", "oracle NFE", "ratio")
    shown = table("task", "configuration", *columns, right=columns)
    for task, entries in found.items():
        for name, entry in entries.items():
            means = (f"{statistics.mean(values):.1f}" for values in (entry.nfe, entry.oracle))
            first = task if name == next(iter(entries)) else ""
            shown.add_row(first, name, str(entry.block_length), *means, f"{entry.ratio:.2f}x")
    return shown


def distance_json(
    found: Mapping[str, Mapping[str, Distance]], works: Mapping[str, Work]
) -> dict[str, Any]:
    """The same, prompt by prompt."""
    return {
        task: {
            name: {
                "config": works[task].configs[name].model_dump(mode="json"),
                "block_length": entry.block_length,
                "nfe": entry.nfe,
                "oracle_nfe": entry.oracle,
                "ratio": entry.ratio,
            }
            for name, entry in entries.items()
        }
        for task, entries in found.items()
    }
