from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import dllmc
from dllmc.models import LoadedModel, load_model
from dllmc.models.auxiliary import evaluate
from dllmc.runtime.programs import cache_shapes
from dllmc.spec import ConfigError, StepPlan
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from dllmc.runtime import Engine

LENGTH = 48


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("auxiliary", dtype=torch.float64)


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> Engine:
    return dllmc.compile(model, backend="eager", verify=True).engine()


@pytest.fixture(scope="module")
def canvas(model: LoadedModel) -> Tensor:
    """Prompts with the beginnings of the model's own answers."""
    assert model.tokenizer is not None
    texts = ("sort: d a c b", "copy: x y z", "12+34=")
    ids = [model.spec.prepare_prompt(model.tokenizer.encode(t).ids, 32) for t in texts]
    prompts = torch.tensor(ids)
    return torch.cat((prompts, evaluate.decode(model, prompts)), dim=1)[:, :LENGTH]


class Steps:
    """Partial evaluations that share caches, each row seeing itself and what is before it."""

    def __init__(self, engine: Engine, canvas: Tensor) -> None:
        self.engine, self.canvas = engine, canvas
        self.caches = {
            name: torch.zeros(len(canvas), heads, LENGTH + 1, width, dtype=torch.float64)
            for name, (heads, width) in cache_shapes(engine.package.graphs["greedy"]).items()
        }

    def evaluate(self, rows: range) -> tuple[Tensor, ...]:
        """Arg-max, its logit and the tail mass of `rows`."""
        batch = len(self.canvas)
        plan = StepPlan(
            batch=batch, rows=len(rows), head_rows=len(rows), slots=LENGTH, mask="row_limit",
            dtype="float64",
        )  # fmt: skip
        positions = torch.tensor([list(rows)]).expand(batch, -1).contiguous()
        order = torch.arange(len(rows)).expand(batch, -1).contiguous()
        held = torch.arange(LENGTH + 1).expand(batch, -1).contiguous()
        given = {
            "tokens": self.canvas.gather(1, positions),
            "positions": positions,
            "slots": positions,
            "head_rows": order,
            "key_limit": positions + 1,
            "key_positions": held,
        }
        return self.engine.programs.run(plan, given | self.caches)


def test_one_row_at_a_time_equals_all_rows_at_once(engine: Engine, canvas: Tensor) -> None:
    whole = Steps(engine, canvas).evaluate(range(LENGTH))
    steps = Steps(engine, canvas)
    parts = [steps.evaluate(range(31)), *(steps.evaluate(range(i, i + 1)) for i in range(31, 48))]
    for full, few in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(few, dim=1), full, rtol=1e-9, atol=1e-9)


def test_compiled_rows_predict_what_the_plain_module_predicts(
    model: LoadedModel, engine: Engine, canvas: Tensor
) -> None:
    ids, top, tail = Steps(engine, canvas).evaluate(range(LENGTH))
    logits = model.module(canvas)
    allowed = logits.index_fill(2, torch.tensor([model.spec.mask_id]), -torch.inf)
    assert torch.equal(ids, allowed.argmax(-1))
    torch.testing.assert_close(top, allowed.amax(-1))
    likely = logits.softmax(-1).gather(2, ids[..., None])[..., 0]
    torch.testing.assert_close(1 / (1 + tail), likely)


def test_what_is_written_later_changes_no_earlier_row(engine: Engine, canvas: Tensor) -> None:
    steps, other = Steps(engine, canvas), canvas.clone()
    steps.evaluate(range(LENGTH))
    other[:, 40:] = (other[:, 40:] + 1) % engine.spec.vocab_size
    changed = Steps(engine, other)
    changed.evaluate(range(LENGTH))
    for name, cache in steps.caches.items():
        torch.testing.assert_close(cache[:, :, :40], changed.caches[name][:, :, :40])


def test_it_is_not_decoded_by_itself(model: LoadedModel, engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"`role`='auxiliary'.*not decoded by itself"):
        dllmc.DecodingConfig().check_model(model.spec)
    with pytest.raises(ConfigError, match=r"`role`='auxiliary'.*not decoded by itself"):
        engine.generate("sort: d a c b")


@pytest.mark.parametrize("name", ["copy", "sort"])
def test_it_answers_easy_prompts(name: str) -> None:
    task = get_task(name)
    result = evaluate.evaluate(load_model("auxiliary"), task, task.samples("test", 20))
    assert result.exact >= 0.95
    assert result.likelihood > -0.05
