from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch.nn.functional as F
from graphs.toys import SPEC, VOCAB, WIDTH, Toy

from dllmc.compiler.explain import Explanation, explain
from dllmc.models import load_model
from dllmc.spec import PlanError, StepPlan

if TYPE_CHECKING:
    from torch import Tensor

PLAN = StepPlan(batch=2, rows=6, head_rows=3, slots=10)


@pytest.fixture(scope="module")
def explained() -> Explanation:
    model = load_model("random:llada-tiny")
    return explain(model, [PLAN, PLAN.model_copy(update={"statistics": "sampled"})])


def test_passes_are_those_of_the_report(explained: Explanation) -> None:
    found = {result.name: (result.matched, result.expected) for result in explained.passes}
    assert found["match_rms_norm"] == (5, 5)
    assert found["merge_projections"] == (4, 4)
    assert found["insert_cache"] == (2, 2)
    assert all(result.nodes_after > 0 for result in explained.passes)
    ran = [result for result in explained.passes if result.skipped_because != "disabled"]
    assert {result.name for result in explained.passes} - {result.name for result in ran} == {
        "quantise_weights"
    }
    assert all(result.seconds > 0 for result in ran)


def test_operators_are_counted_before_and_after(explained: Explanation) -> None:
    assert explained.before["aten.linear.default"] == 15
    assert explained.before["aten.scaled_dot_product_attention.default"] == 2
    assert set(explained.after) == {"greedy", "none", "sampled"}
    for statistics, head in (("greedy", "head"), ("sampled", "sampled_head")):
        after = explained.after[statistics]
        assert after["dllmc.cached_attention.torch"] == 2
        assert sum(n for name, n in after.items() if name.startswith("dllmc.linear.")) == 9
        assert sum(n for name, n in after.items() if f"dllmc.{head}_statistics." in name) == 1
        assert not {"aten.linear.default", "dllmc.attention.default"} & set(after)


def test_the_floor_of_a_tiny_step_counted_by_hand(explained: Explanation) -> None:
    # Width 32, four heads, feed-forward 64, vocabulary 96; 2 x 6 rows, 2 x 3 at the head.
    floor = explained.floors[0]
    first = {(12, 32, 96): 1, (12, 32, 32): 1, (12, 32, 128): 1, (12, 64, 32): 1}
    last = {(6, 32, 32): 2, (12, 32, 64): 1, (6, 32, 128): 1, (6, 64, 32): 1}
    assert floor.products == {**first, **last, (6, 32, 96): 1}
    layer = 32 * 96 + 32 * 32 + 32 * 128 + 64 * 32
    k_and_v, head = 32 * 64, 32 * 96
    assert floor.linear_flops == 2 * (12 * layer + 12 * k_and_v + 6 * (layer - k_and_v + head))
    # Scores and values, of 6 rows and then of 3, over 10 slots.
    assert floor.attention_flops == 2 * 2 * 4 * (6 + 3) * 10 * (8 + 8)
    norms, looked_up = 5 * 32, 12 * 32 + 2 * 12 * 8
    assert floor.parameter_bytes == 4 * (2 * layer + head + norms + looked_up)
    assert floor.cache_bytes == 4 * 2 * 2 * 2 * (4 * 10 * 8)
    assert floor.flops == floor.linear_flops + floor.attention_flops
    assert floor.bytes == floor.parameter_bytes + floor.cache_bytes


def test_sampling_multiplies_nothing_more(explained: Explanation) -> None:
    greedy, sampled = explained.floors
    assert sampled.products == greedy.products
    assert sampled.bytes == greedy.bytes


def test_the_roofline_is_the_longer_of_reading_and_computing(explained: Explanation) -> None:
    floor = explained.floors[0]
    assert floor.seconds(bandwidth=1.0, rate=1e30) == floor.bytes
    assert floor.seconds(bandwidth=1e30, rate=2.0) == floor.flops / 2


def test_a_tied_head_is_read_whole_and_once() -> None:
    class Tied(Toy):
        def finish(self, x: Tensor, tokens: Tensor) -> Tensor:
            return F.linear(x, self.embed.weight)

    plan = StepPlan(batch=1, rows=3, head_rows=2, slots=5, dtype="float64")
    untied = explain(Toy(), [plan], spec=SPEC).floors[0]
    tied = explain(Tied(), [plan], spec=SPEC).floors[0]
    # The rows looked up are among the whole, and the other head had a bias.
    assert untied.parameter_bytes - tied.parameter_bytes == 8 * (3 * WIDTH + VOCAB)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "bfloat16"}, "`dtype`='bfloat16' is not that of the model, 'float32'"),
        ({"statistics": "other"}, "`statistics`='other' is not among those of the model: greedy"),
    ],
)
def test_plans_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    plan = PLAN.model_copy(update=changes)
    with pytest.raises(PlanError, match=message):
        explain(load_model("random:llada-tiny"), [plan])


def test_callers_may_watch() -> None:
    seen: list[str] = []
    explain(Toy(), spec=SPEC, before_and_after=lambda name, _: seen.append(name))
    assert seen[:2] == ["capture", "remove_noops"]
    assert seen[-1] == "lower_operators"


@pytest.mark.parametrize("shape", ["sdar-tiny", "llada2-tiny"])
def test_steps_of_block_causal_models_have_floors(shape: str) -> None:
    plans = [
        StepPlan(batch=2, rows=8, head_rows=8, slots=24),
        StepPlan(batch=2, rows=8, head_rows=0, slots=24, statistics="none"),
    ]
    step, filling = explain(load_model(f"random:{shape}"), plans).floors
    assert step.plan.mask == filling.plan.mask == "row_limit"
    assert 0 < filling.flops < step.flops


def test_experts_count_for_the_rows_that_go_to_them() -> None:
    model = load_model("random:llada-moe-tiny")
    few, many = explain(
        model, [StepPlan(batch=1, rows=rows, head_rows=1, slots=64) for rows in (2, 64)]
    ).floors
    layers, experts = model.config["num_hidden_layers"], model.config["num_experts"]
    chosen, width = model.config["num_experts_per_tok"], model.config["hidden_size"]
    hidden = model.config["expert_intermediate_size"]
    # Of the last layer one row is left.
    assert few.products[2 * chosen, width, 2 * hidden] == layers - 1
    assert few.products[chosen, hidden, width] == 1
    head_dim = width // model.config["num_attention_heads"]
    # Two rows go to four of the eight experts, one row to two, 64 rows to all of them. Embeddings
    # and two rotary tables are read by row.
    expert = 3 * width * hidden * 4
    by_row = (64 - 2) * (width + 2 * head_dim) * 4
    assert many.parameter_bytes - few.parameter_bytes == (experts - 2 * chosen) * expert + by_row
