from __future__ import annotations

import linecache
import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graphs.passing import logits, operators
from graphs.toys import HEADS, SPEC, VOCAB, WIDTH, Toy, llada
from torch import Tensor, nn

from dllmc.compiler.capture import capture
from dllmc.spec import CaptureError

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec


def test_a_capture_computes_what_the_module_does_at_any_size() -> None:
    module, spec = llada()
    graph = capture(module, spec)
    for batch, length in ((1, 2), (2, 9), (5, 1), (1, 200)):
        tokens = torch.randint(0, 90, (batch, length))
        torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)


def test_parameters_are_those_of_the_module() -> None:
    module, spec = llada()
    graph = capture(module, spec)
    own = {parameter.data_ptr() for parameter in module.parameters()}
    assert {parameter.data_ptr() for parameter in graph.parameters()} <= own


def test_the_input_is_called_tokens_and_comes_first() -> None:
    class Renamed(Toy):
        def forward(self, words: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(words)

    nodes = list(capture(Renamed(), SPEC).graph.nodes)
    assert (nodes[0].op, nodes[0].target, nodes[0].name) == ("placeholder", "tokens", "tokens")
    assert sum(node.op == "placeholder" for node in nodes) == 1


def test_nothing_mutates() -> None:
    class Mutating(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            y = x * 2
            y += x
            y[..., 0] = 0
            return y.relu_()

    module = Mutating()
    graph = capture(module, SPEC)
    tokens = torch.randint(0, VOCAB, (2, 6))
    torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)
    targets = [n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert not [target for target in targets if target._schema.is_mutable]


def test_source_lines_are_kept() -> None:
    graph = capture(Toy(), SPEC)
    assert operators(graph)["aten.linear.default"] == 9
    linear = next(n for n in graph.graph.nodes if "linear" in str(n.target))
    assert "toys.py" in linear.meta["stack_trace"]


class Counting(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        self.calls += 1  # culprit
        return x


class Overwriting(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        tokens[:, 0] = 0  # culprit
        return x


class Branching(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x if tokens.sum() > 3 else -x  # culprit


class Counted(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        longest = int(tokens.max())  # culprit
        return x + x[..., :longest].sum()


class Numerical(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        weights = np.sin(tokens.numpy())  # culprit
        return x * torch.from_numpy(weights)[..., None]


class FixedLength(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + torch.ones(7, 1, dtype=torch.float64)  # culprit


class FixedView(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.view(3, 7, WIDTH)  # culprit


class Looping(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        last = x
        for _ in range(tokens.shape[1]):  # culprit
            last = last * 0.5
        return last


class OtherWhenLong(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x if tokens.shape[1] < 20 else -x  # culprit


class OtherWhenOdd(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x if tokens.shape[1] % 2 else -x  # culprit


class OtherWhenClipped(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        return x if min(length, 20) == length else -x  # culprit


class WithShortTable(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.ones(5, 1, dtype=torch.float64)

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + self.table[: tokens.shape[1]]  # culprit


class TwoInputs(nn.Module):
    def forward(self, tokens: Tensor, times: Tensor) -> Tensor:
        return tokens * times


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counting(), "the forward changes calls"),
        (Overwriting(), "the forward changes tokens"),
        (Branching(), "the code branches on the values of a tensor"),
        (Counted(), "the code makes a number of the values of a tensor"),
        (Numerical(), r"the code leaves torch by `.numpy\(\)`"),
        (FixedLength(), "a shape is frozen at the example's `length` = 7"),
        (FixedView(), "a shape is frozen at the example's `batch` = 3 and `length` = 7"),
        (Looping(), "a shape is frozen at the example's `length` = 7"),
        (OtherWhenLong(), "the code takes another way .* of `length` at .* give `max_length`=19,"),
        (OtherWhenOdd(), "the code takes another way .* of `length` at .* spec's `max_length`;"),
        (OtherWhenClipped(), "the code takes another way for some values of `length` at "),
        (WithShortTable(), r"must match the size of tensor b \(5\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_captured_is_refused_with_its_line(module: nn.Module, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        capture(module, SPEC)
    said = str(caught.value)
    assert "\n" not in said
    assert f"torch.export cannot capture {type(module).__name__}: " in said
    assert "--debug" in said
    place = re.search(r" at (\S+):(\d+)", said)
    assert place is not None
    assert linecache.getline(place[1], int(place[2])).endswith("# culprit\n")


def test_what_torch_prints_stands_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Branching(), SPEC)
    assert "torch.ops.aten.sum" in "".join(caught.value.__cause__.__notes__)  # type: ignore[union-attr]
    assert capfd.readouterr() == ("", "")


def test_what_a_module_prints_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Printing(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            print("hello", file=sys.stderr)
            return x

    capture(Printing(), SPEC)
    assert "hello" in capsys.readouterr().err


def test_other_inputs_than_tokens_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"torch\.export cannot capture TwoInputs"):
        capture(TwoInputs(), SPEC)


def test_a_module_that_draws_is_refused() -> None:
    class Drawing(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=True)

    with pytest.raises(CaptureError, match=r"computes something else .* at batch 2 and length 11"):
        capture(Drawing(), SPEC)


def test_a_module_that_fails_elsewhere_is_refused() -> None:
    class Asserting(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            if not torch.compiler.is_exporting() and tokens.shape[1] > 10:
                raise RuntimeError("too long")
            return x

    with pytest.raises(CaptureError, match=r"runs at batch 3 .* but not at .* 11: too long at "):
        capture(Asserting(), SPEC)


def test_an_embedding_with_fewer_rows_than_the_logits_are_wide_is_refused() -> None:
    module = Toy()
    module.embed = nn.Embedding(VOCAB - 3, WIDTH).double()
    with pytest.raises(CaptureError, match=r"Toy does not know every token id .*`vocab_size`=13"):
        capture(module, SPEC)


class Remembering(Toy):
    """Keeps tables for the next call, as an attribute and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.last: Tensor | None = None

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        if "table" not in self.kept or len(self.kept["table"]) < x.shape[1]:
            self.kept["table"] = torch.arange(x.shape[1], dtype=x.dtype)
        self.last = x
        return x + self.kept["table"][: x.shape[1], None]


def test_what_a_module_keeps_between_calls_is_left_as_it_was() -> None:
    module = Remembering()
    graph = capture(module, SPEC)
    assert module.kept == {}
    assert module.last is None
    tokens = torch.randint(0, VOCAB, (2, 17))
    torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)


def test_tied_weights_hooks_and_parametrizations() -> None:
    module = Toy()
    module.head = nn.Linear(WIDTH, VOCAB, bias=False).double()
    module.head.weight = module.embed.weight
    nn.utils.parametrizations.weight_norm(module.up[0])
    module.down[0].register_forward_hook(lambda _, __, output: output * 1.5)
    graph = capture(module.eval().requires_grad_(False), SPEC)
    tokens = torch.randint(0, VOCAB, (2, 6))
    torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)


def test_a_compiled_part_is_captured_as_written() -> None:
    @torch.compile
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    class PartlyCompiled(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            return doubled(x)

    assert "aten.mul.Tensor" in operators(capture(PartlyCompiled(), SPEC))


def test_encoder_layers_of_torch_are_captured_operator_by_operator() -> None:
    class Layered(Toy):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, batch_first=True)
            self.layer = layer.eval().double().requires_grad_(False)

        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            return self.layer(x)

    fast = torch.backends.mha.get_fastpath_enabled()
    assert operators(capture(Layered(), SPEC))["aten.scaled_dot_product_attention.default"] == 3
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_a_wide_capture_rounds_nowhere() -> None:
    class Casting(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            places = torch.arange(x.shape[1], dtype=torch.float32) * torch.ones(x.shape[1])
            return (x.float() / 3).to(x.dtype) + places[:, None].to(x.dtype) / 3

    def dtypes(wide: bool) -> set[torch.dtype]:
        graph = capture(Casting(), SPEC, wide=wide)
        values = [node.meta.get("val") for node in graph.graph.nodes]
        return {value.dtype for value in values if isinstance(value, Tensor)} - {torch.int64}

    assert dtypes(wide=False) == {torch.float32, torch.float64}
    assert dtypes(wide=True) == {torch.float64}


def test_a_graph_does_not_depend_on_the_default_dtype() -> None:
    class Defaulting(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            mask = torch.ones(tokens.shape)[:, None, :].to(x.dtype)
            return x * mask.mT + torch.zeros(1)

    for wide, dtype in ((False, torch.float32), (True, torch.float64)):
        graph = capture(Defaulting(), SPEC, wide=wide)
        made = [node for node in graph.graph.nodes if "aten.ones" in str(node.target)]
        assert [node.kwargs["dtype"] for node in made] == [dtype]
        assert logits(graph, torch.zeros(2, 5, dtype=torch.int64)).dtype == torch.float64


def test_the_shortest_canvas() -> None:
    spec: DenoiserSpec = SPEC.model_copy(update={"max_length": 3})
    graph = capture(Toy(), spec)
    assert logits(graph, torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, VOCAB)
