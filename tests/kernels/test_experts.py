from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dllmc.compiler.capture import capture
from dllmc.kernels import canonical, default_implementations, implementation, implementations
from dllmc.runtime.programs._compile_graph import compile_graph
from dllmc.spec import DenoiserSpec

CPU = torch.device("cpu")
EXPERTS = 5
# Only widths that are multiples of 16 bytes go through the grouped product.
WIDTHS = [(7, 3), (33, 17), (32, 16), (64, 24)]
DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 6e-2)]

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def drawn(
    rows: int, width: int, hidden: int, chosen: int = 2, dtype: torch.dtype = torch.float64
) -> Case:
    x = torch.randn(rows, width)
    weights, ids = torch.randn(rows, EXPERTS).softmax(-1).topk(chosen, dim=-1)
    gate_up = torch.randn(EXPERTS, 2 * hidden, width) / width**0.5
    down = torch.randn(EXPERTS, width, hidden) / hidden**0.5
    return x.to(dtype), ids, weights.to(dtype), gate_up.to(dtype), down.to(dtype)


def looped(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One row and one expert at a time, in float64."""
    hidden = down.shape[-1]
    result = torch.zeros(x.shape, dtype=torch.float64)
    for row in range(len(x)):
        for expert, weight in zip(ids[row].tolist(), weights[row].double(), strict=True):
            gate = gate_up[expert, :hidden].double() @ x[row].double()
            up = gate_up[expert, hidden:].double() @ x[row].double()
            result[row] += weight * (down[expert].double() @ (gate / (1 + (-gate).exp()) * up))
    return result


def taken(name: str, case: Case) -> bool:
    """`grouped` is for aligned widths of float32 and narrower."""
    x, down = case[0], case[4]
    sizes = [size * x.element_size() for size in (x.shape[-1], down.shape[-1])]
    return name != "grouped" or (x.dtype != torch.float64 and not any(s % 16 for s in sizes))


def found(case: Case) -> dict[str, Tensor]:
    names = [name for name in sorted(implementations("experts")) if taken(name, case)]
    return {name: implementation("experts", name)(*case) for name in names}


@pytest.mark.parametrize("rows", [1, 2, 63])
@pytest.mark.parametrize(("width", "hidden"), WIDTHS)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_every_implementation_is_the_sum_over_the_chosen_experts(
    rows: int, width: int, hidden: int, dtype: torch.dtype, tolerance: float
) -> None:
    case = drawn(rows, width, hidden, dtype=dtype)
    for result in found(case).values():
        assert result.dtype == dtype
        assert result.is_contiguous()
        torch.testing.assert_close(
            result.double(), looped(*case), rtol=tolerance, atol=4 * tolerance
        )


@pytest.mark.parametrize("chosen", [1, 3, EXPERTS])
def test_any_number_of_experts_may_be_chosen(chosen: int) -> None:
    case = drawn(9, 32, 16, chosen, torch.float32)
    assert len(found(case)) == 3
    for result in found(case).values():
        torch.testing.assert_close(result.double(), looped(*case), rtol=1e-5, atol=1e-5)


def test_an_expert_may_get_no_row_and_one_may_get_all() -> None:
    for dtype in (torch.float64, torch.float32):
        x, _, weights, gate_up, down = drawn(6, 32, 16, 1, dtype)
        for expert in (0, 2, EXPERTS - 1):
            case = (x, torch.full((6, 1), expert), weights, gate_up, down)
            for result in found(case).values():
                torch.testing.assert_close(result.double(), looped(*case), rtol=1e-5, atol=1e-5)


def test_sequences_in_a_batch_are_rows() -> None:
    x, ids, weights, gate_up, down = drawn(12, 32, 16, dtype=torch.float32)
    for name, flat in found((x, ids, weights, gate_up, down)).items():
        batched = implementation("experts", name)(
            x.view(3, 4, 32), ids.view(3, 4, 2), weights.view(3, 4, 2), gate_up, down
        )
        assert torch.equal(batched.view(12, 32), flat)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    for width, hidden in ((32, 16), (33, 17)):
        case = drawn(8, width, hidden, dtype=torch.float32)
        spoilt = case[0].clone()
        spoilt[3], spoilt[5] = torch.nan, torch.inf
        clean = [0, 1, 2, 4, 6, 7]
        for name, result in found((spoilt, *case[1:])).items():
            assert torch.isnan(result[3]).any()
            expected = implementation("experts", name)(*case)
            torch.testing.assert_close(result[clean], expected[clean], rtol=1e-6, atol=1e-6)


def test_an_expert_that_is_not_chosen_cannot_spoil_a_row() -> None:
    x, _, weights, gate_up, down = drawn(4, 32, 16, 2, torch.float32)
    ids = torch.tensor([[0, 1]] * 4)
    gate_up[3] = torch.inf
    for result in found((x, ids, weights, gate_up, down)).values():
        assert result.isfinite().all()


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    x, ids, weights, gate_up, down = drawn(40, 32, 16, dtype=torch.float32)
    for name, whole in found((x, ids, weights, gate_up, down)).items():
        for rows in (1, 2, 9, 31):
            part = implementation("experts", name)(
                x[:rows], ids[:rows], weights[:rows], gate_up, down
            )
            torch.testing.assert_close(part, whole[:rows], rtol=1e-5, atol=1e-6)


def test_the_same_rows_give_the_same_bits() -> None:
    case = drawn(40, 32, 16, 3, torch.float32)
    for name, result in found(case).items():
        assert torch.equal(implementation("experts", name)(*case), result)


def test_wider_weights_widen_the_sum() -> None:
    case = drawn(30, 32, 16, 4, torch.bfloat16)
    wide = (*case[:2], case[2].float(), *case[3:])
    for name, result in found(wide).items():
        assert result.dtype == torch.bfloat16
        narrow = implementation("experts", name)(*case)
        exact = looped(*case)
        assert (result - exact).abs().mean() < (narrow - exact).abs().mean()


def test_layout_does_not_matter() -> None:
    x, ids, weights, gate_up, down = drawn(10, 32, 16, dtype=torch.float32)
    turned = (x.T.contiguous().T, ids.T.contiguous().T, weights.T.contiguous().T)
    for name, result in found((x, ids, weights, gate_up, down)).items():
        again = implementation("experts", name)(*turned, gate_up, down)
        torch.testing.assert_close(again, result, rtol=1e-6, atol=1e-6)
    strided = gate_up.transpose(1, 2).contiguous().transpose(1, 2)
    again = implementation("experts", "sorted")(x, ids, weights, strided, down)
    torch.testing.assert_close(again, result, rtol=1e-5, atol=1e-6)


class Routed(nn.Module):
    """Tokens -> embedding -> experts."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        _, _, _, gate_up, down = drawn(1, 32, 16, dtype=dtype)
        self.embed = nn.Embedding(11, 32, dtype=dtype)
        self.router = nn.Linear(32, EXPERTS, bias=False, dtype=dtype)
        self.gate_up, self.down = nn.Parameter(gate_up), nn.Parameter(down)
        self.eval().requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        weights, ids = self.router(x).softmax(-1).topk(2, dim=-1)
        mixed: Tensor = canonical("experts")(x, ids, weights, self.gate_up, self.down)
        return mixed


@pytest.mark.parametrize("name", [pytest.param("torch", marks=pytest.mark.slow), "sorted"])
def test_a_graph_holds_one_call_at_any_batch_and_length(name: str) -> None:
    module = Routed(torch.float32)
    graph = capture(module, DenoiserSpec(mask_id=10, vocab_size=11, max_length=64, eos_ids=()))
    (site,) = [node for node in graph.graph.nodes if node.target is canonical("experts")]
    site.target = implementation("experts", name)
    graph.recompile()
    example = {"tokens": torch.randint(11, (3, 7))}
    program, conditions = compile_graph(graph, example, {"tokens": (0, 1)})
    assert not conditions
    for size in ((3, 7), (2, 30), (5, 2)):
        tokens = torch.randint(11, size)
        (result,) = program(tokens)
        torch.testing.assert_close(result, module(tokens), rtol=1e-5, atol=1e-5)


def test_a_cpu_sorts_rows_except_in_float64() -> None:
    assert default_implementations(CPU, torch.float32)["experts"] == "sorted"
    assert default_implementations(CPU, torch.bfloat16)["experts"] == "sorted"
    assert "experts" not in default_implementations(CPU, torch.float64)
    assert "experts" not in default_implementations(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("name", ["torch", "sorted"])
def test_no_rows_give_no_rows(name: str) -> None:
    x, ids, weights, gate_up, down = drawn(0, 32, 16, dtype=torch.float32)
    assert implementation("experts", name)(x, ids, weights, gate_up, down).shape == (0, 32)
