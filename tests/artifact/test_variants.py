"""What is derived of a step computes what it says, in float64."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from lockstep.drawn import MASK, SHAPES, VOCAB, Shape, model_of
from torch.overrides import TorchFunctionMode

from dllmc.artifact.variants import derive
from dllmc.compiler.compiled import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.runtime.programs.base import example_inputs
from dllmc.runtime.programs.eager import EagerPrograms
from dllmc.spec import PlanError, StepPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FULL, COLUMNS = SHAPES[1], 29  # the head has more columns than tokens
WIDTH = 7
HEAD = [[6, 2, 0], [1, 3, 5]]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@functools.cache
def double(shape: Shape) -> tuple[LoadedModel, EagerPrograms]:
    drawn = model_of(shape)
    module = copy.deepcopy(drawn.module).double()
    model = LoadedModel(module, drawn.spec, None, "drawn", None, {})
    compiled = compile_model(model, engine_of=Engine, backend="eager")
    return model, EagerPrograms(compiled.package)


def plan_of(**changes: Any) -> StepPlan:
    sizes = {"batch": 2, "rows": WIDTH, "head_rows": 3, "slots": 2 * WIDTH, "dtype": "float64"}
    return StepPlan(**{**sizes, **changes})


def canvases() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCAB - 1, (2, WIDTH), generator=generator)
    tokens[:, 4:] = MASK
    return tokens


def evaluate(shape: Shape, plan: StepPlan, **others: Tensor) -> tuple[Tensor, ...]:
    """A full evaluation of the canvases."""
    programs = double(shape)[1]
    inputs = example_inputs(programs.graph(plan), plan, torch.device("cpu"))
    given = {"tokens": canvases(), "head_rows": torch.tensor(HEAD), **others}
    return programs.run(plan, {**inputs, **given})


def logits_of(shape: Shape, tokens: Tensor) -> Tensor:
    """Of the plain module, at the head rows."""
    with torch.no_grad():
        logits: Tensor = double(shape)[0].module(tokens)
    return logits.gather(1, torch.tensor(HEAD)[..., None].expand(-1, -1, COLUMNS))


def test_nothing_beyond_the_plain_step_is_the_plain_step() -> None:
    graphs = double(FULL)[1].package.graphs
    for base in ("greedy", "sampled"):
        assert derive(graphs, plan_of(statistics=base)) is graphs[base]


def test_entropies_are_those_of_the_logits() -> None:
    found = evaluate(FULL, plan_of(statistics="greedy+entropy"))[3]
    logs = logits_of(FULL, canvases()).log_softmax(-1)
    torch.testing.assert_close(found, -(logs.exp() * logs).sum(-1), **TIGHT)


def test_the_second_and_the_top_are_the_best_tokens_but_the_mask() -> None:
    logits = logits_of(FULL, canvases())
    logits[..., MASK] = -torch.inf
    values, ids = logits.sort(-1, descending=True)
    results = evaluate(FULL, plan_of(statistics="greedy+second+top4"))
    assert torch.equal(results[0], ids[..., 0])
    torch.testing.assert_close(results[3], values[..., 1], **TIGHT)
    assert torch.equal(results[4], ids[..., :4])
    torch.testing.assert_close(results[5], values[..., :4], **TIGHT)


def test_logits_come_whole_or_gathered() -> None:
    expected = logits_of(FULL, canvases())
    whole = evaluate(FULL, plan_of(statistics="greedy+logits"))[3]
    torch.testing.assert_close(whole, expected, **TIGHT)
    ids = torch.randint(COLUMNS, (2, 3, 5))
    found = evaluate(FULL, plan_of(statistics="greedy+gather5"), gather_ids=ids)[3]
    torch.testing.assert_close(found, expected.gather(-1, ids), **TIGHT)


def test_several_come_in_the_order_of_their_names() -> None:
    plan = plan_of(statistics="greedy+entropy+gather2+logits+second+top3")
    results = evaluate(FULL, plan, gather_ids=torch.zeros(2, 3, 2, dtype=torch.int64))
    shapes = [(), (2,), (COLUMNS,), (), (3,), (3,)]
    assert [tuple(value.shape) for value in results[3:]] == [(2, 3, *s) for s in shapes]


@pytest.mark.parametrize("base", ["greedy", "sampled"])
def test_the_other_statistics_stay_as_they_are(base: str) -> None:
    heat = torch.tensor([0.7, 1.5])
    plain = evaluate(FULL, plan_of(statistics=base), temperature=heat)
    wide = evaluate(FULL, plan_of(statistics=f"{base}+entropy"), temperature=heat)
    for one, other in zip(plain, wide[:3], strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("width", [1, 3])
def test_a_mixture_of_one_token_is_that_token(width: int) -> None:
    ids = canvases()[..., None].repeat(1, 1, width)
    weights = torch.zeros(2, WIDTH, width)
    weights[..., 0] = 1
    mixed = evaluate(
        FULL, plan_of(inputs=f"mixture{width}"), mixture_ids=ids, mixture_weights=weights
    )
    for one, other in zip(mixed, evaluate(FULL, plan_of()), strict=True):
        assert torch.equal(one, other)


def test_a_mixture_is_fed_as_the_mean_of_embeddings() -> None:
    module = double(FULL)[0].module
    weight = next(m.weight for m in module.modules() if isinstance(m, torch.nn.Embedding))
    ids = torch.randint(VOCAB - 1, (2, WIDTH, 3))
    weights = torch.rand(2, WIDTH, 3).softmax(-1).double()

    class Fed(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is F.embedding:
                return (weight[ids] * weights[..., None]).sum(-2)
            return func(*args, **(kwargs or {}))

    with Fed():
        expected = logits_of(FULL, canvases())
    plan = plan_of(inputs="mixture3", statistics="greedy+logits")
    found = evaluate(FULL, plan, mixture_ids=ids, mixture_weights=weights)[3]
    torch.testing.assert_close(found, expected, **TIGHT)


def test_canvases_that_stand_in_one_row_do_not_see_one_another() -> None:
    own = torch.arange(2).repeat_interleave(WIDTH)
    sizes = {"batch": 1, "rows": 2 * WIDTH, "head_rows": 6, "mask": "limit+tree"}
    found = evaluate(
        FULL,
        plan_of(**sizes, statistics="greedy+logits"),
        tokens=canvases().view(1, -1),
        positions=torch.arange(WIDTH).repeat(2)[None],
        slots=torch.arange(2 * WIDTH)[None],
        head_rows=torch.tensor([HEAD[0] + [WIDTH + row for row in HEAD[1]]]),
        key_limit=torch.tensor([2 * WIDTH + 1]),
        key_mask=F.pad(own[:, None] == own, (0, 1))[None],
    )[3]
    expected = logits_of(FULL, canvases()).reshape(1, 6, COLUMNS)
    torch.testing.assert_close(found, expected, **TIGHT)


def test_a_mask_of_everything_is_the_plain_step() -> None:
    masked = evaluate(FULL, plan_of(mask="limit+tree"))
    for one, other in zip(masked, evaluate(FULL, plan_of()), strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_saliency_is_the_mean_product_of_the_head_rows_queries() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is F.scaled_dot_product_attention:
                seen.append((args[0], args[1]))
            return func(*args, **(kwargs or {}))

    with Watch():
        logits_of(FULL, canvases())
    weights = torch.tensor([[0.5, 0.0, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    results = evaluate(FULL, plan_of(saliency=True), head_weights=weights)
    layers = results[3:]
    assert len(layers) == len(seen) == 2
    for found, (query, key) in zip(layers, seen, strict=True):
        heads = query.shape[1]
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
        for sequence, rows in enumerate(([6, 0], [1, 3, 5])):
            products = query[sequence, :, rows] @ key[sequence].transpose(1, 2)
            expected = products.mean((0, 1))
            torch.testing.assert_close(
                found[sequence, :WIDTH].double(), expected, rtol=1e-5, atol=1e-5
            )
        assert not found[:, WIDTH:].any()


def test_what_a_model_was_not_compiled_for_is_refused() -> None:
    graphs = dict(double(FULL)[1].package.graphs)
    del graphs["sampled"]
    with pytest.raises(PlanError, match="compiled for greedy, none and not for `sampled`"):
        derive(graphs, plan_of(statistics="sampled+entropy"))
