"""Every published strategy on every task: `python benchmarks/bench_policies.py [--minutes N]`.

The embedded model answers the same test prompts with each strategy of `policies/published.py`
and, batch by batch in turn, with the speed baseline in blocks of 8 (Fast-dLLM, dual cache,
threshold 0.9).
Exact match, evaluations, tokens per evaluation and per second; and the evaluations of the oracle.
With `--trials` each strategy is also tuned: so many configurations are tried on tune prompts, and
the fastest that is right as often as one token per evaluation, up to one prompt, is measured too,
or the one that is right most often if none is.

Results are kept under build/ after every strategy and task, so that a run that is stopped goes on
where it was; `--page` writes docs/policies.md of all there are. Seconds are processor time, which
other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _measure import environment
from _policy_page import write_pages
from _policy_runs import Measured, Store, batches, side_by_side
from _policy_tuning import own_space, tune

import dllmc
from dllmc.policies.published import BASELINE, BLOCK, REFERENCE, STRATEGIES, Strategy
from dllmc.runtime.oracle import floors
from dllmc.tasks import GeneratorTask, generator_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.tasks import Sample, Split

STORE = Path(__file__).parents[1] / "build" / "policies.json"


class Bench:
    """Measures what is not in the store yet.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.model = dllmc.load_model("embedded")
        self.engine: Engine = self._compile(self.model).engine()
        self._asking: Engine | None = None
        self._warm: set[str] = set()
        self.vocabulary = self.engine.package.tokenizer.get_vocab()
        self.deadline = time.monotonic() + 60 * arguments.minutes
        named = ("prompts", "tune_prompts", "batch", "backend")
        settings = {name: getattr(arguments, name) for name in named}
        settings |= {name: environment()[name] for name in ("hardware", "torch", "threads")}
        settings["weights"] = self.engine.weights_sha256
        self.store = Store(arguments.store, settings)

    def run(self) -> None:
        tasks = [t for t in generator_tasks() if t.name in (self.arguments.tasks or [t.name])]
        asked = self.arguments.strategies or [s.name for s in STRATEGIES]
        chosen = [strategy for strategy in STRATEGIES if strategy.name in asked]
        for task in tasks:
            self._once(f"oracle/{task.name}", lambda task=task: self._oracle(task))
        for strategy in chosen:
            for task in tasks:
                self._published(strategy, task)
        for strategy in chosen if self.arguments.trials else ():
            for task in tasks:
                self._tuned(strategy, task)

    def _published(self, strategy: Strategy, task: GeneratorTask) -> None:
        config = strategy.config(self.vocabulary)
        name = f"published/{strategy.name}/{task.name}"
        known = self.store.entries.get(name)
        if known is not None and known["config"] != config.model_dump(mode="json"):
            del self.store.entries[name]
        self._once(name, lambda: self._entry(strategy, task, config))

    def _tuned(self, strategy: Strategy, task: GeneratorTask) -> None:
        def measure() -> dict[str, Any]:
            published = strategy.config(self.vocabulary)
            parts = self._parts(task, "tune", self.arguments.tune_prompts)
            found, kept = tune(
                self._engine(strategy),
                task,
                own_space(strategy, published, task.max_new_tokens),
                published,
                parts,
                least=self.store.entries[right]["correct"] - 1,
                trials=self.arguments.trials,
            )
            entry = self._entry(strategy, task, found)
            return {**entry, "trials": self.arguments.trials, "kept": kept}

        right = f"right/{task.name}"
        self._once(right, lambda: self._right(task))
        name = f"tuned/{strategy.name}/{task.name}"
        if self.store.entries.get(name, {}).get("trials") != self.arguments.trials:
            self.store.entries.pop(name, None)
        self._once(name, measure)

    def _right(self, task: GeneratorTask) -> dict[str, Any]:
        """How often one token per evaluation is right on tune prompts."""
        reference = Measured()
        for part in self._parts(task, "tune", self.arguments.tune_prompts):
            reference.add(self.engine, task, self._config(REFERENCE), part)
        return {"correct": reference.correct.count(True)}

    def _once(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        if name in self.store.entries or time.monotonic() > self.deadline:
            return
        begun = time.monotonic()
        self.store.put(name, {**measure(), "date": environment()["date"]})
        print(f"{time.monotonic() - begun:6.1f} s  {name}", flush=True)

    def _entry(
        self, strategy: Strategy, task: GeneratorTask, config: DecodingConfig
    ) -> dict[str, Any]:
        parts = self._parts(task, "test", self.arguments.prompts)
        baseline = self._config(BASELINE)
        engine = self._engine(strategy)
        if strategy.name not in self._warm:
            # The first decode of all fills caches that later ones find filled.
            Measured().add(engine, task, config, parts[0])
            self._warm.add(strategy.name)
        found = side_by_side(engine, task, config, baseline, parts)
        measured, beside = map(asdict, found)
        shown = config.model_dump(mode="json")
        return {"config": shown, "measured": measured, "baseline": beside}

    def _oracle(self, task: GeneratorTask) -> dict[str, Any]:
        samples = task.samples("test", self.arguments.prompts)
        found = floors(
            self.engine,
            [self.engine.encode(sample.prompt) for sample in samples],
            max_new_tokens=task.max_new_tokens,
            block_length=BLOCK,
            batch=self.arguments.batch,
        )
        return {"nfe": [floor.nfe for floor in found]}

    def _parts(self, task: GeneratorTask, split: Split, count: int) -> list[Sequence[Sample]]:
        return batches(task.samples(split, count), self.arguments.batch)

    def _config(self, name: str) -> DecodingConfig:
        return next(s for s in STRATEGIES if s.name == name).config(self.vocabulary)

    def _compile(self, model: dllmc.LoadedModel) -> Any:
        return dllmc.compile(model, backend=self.arguments.backend)

    def _engine(self, strategy: Strategy) -> Engine:
        """The engine, or one that asks the autoregressive model too."""
        if not strategy.auxiliary:
            return self.engine
        if self._asking is None:
            auxiliary = self._compile(dllmc.load_model("auxiliary"))
            self._asking = self._compile(self.model).engine(auxiliary=auxiliary)
        return self._asking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--strategies", nargs="+", choices=[s.name for s in STRATEGIES])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tune-prompts", type=int, default=24)
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="inductor", choices=("inductor", "eager"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--page", action="store_true", help="write docs/policies.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments)
    with torch.no_grad():
        bench.run()
    if arguments.page:
        for path in write_pages(bench.store, environment()):
            print(f"written to {path}")


if __name__ == "__main__":
    main()
