"""Modules that take and return what published modelling code does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from graphs.passing import logits, operators
from graphs.toys import SPEC, VOCAB, Toy
from torch import Tensor, nn

from dllmc.compiler import adapt
from dllmc.compiler._adapter import Following, plan_call
from dllmc.compiler.capture import capture
from dllmc.spec import CaptureError, UsageError

TOKENS = torch.tensor([[1, 2, 3, 4, 5]])


@dataclass
class Fields:
    logits: Tensor
    hidden: Tensor | None = None


class Pair(NamedTuple):
    logits: Tensor
    cache: None = None


class Keyed(dict[str, Any]):
    """A mapping whose keys are attributes too, as output objects of transformers are."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Wrapped(Toy):
    """Takes and returns what its subclasses say."""

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> Any:  # type: ignore[override]
        assert not use_cache
        return self.wrap(super().forward(input_ids))

    def wrap(self, logits: Tensor) -> Any:
        return Fields(logits)


def wrapped(wrap: Any) -> Wrapped:
    module = Wrapped()
    module.wrap = wrap  # type: ignore[method-assign]
    return module


def same(module: nn.Module, example: Any = None) -> None:
    """The adapted module computes what Toy does, and so does its capture."""
    adapted = adapt(module, SPEC, example)
    graph = capture(adapted.module, adapted.spec)
    tokens = torch.randint(0, VOCAB, (2, 9))
    expected = Toy.forward(module, tokens)  # type: ignore[arg-type]
    torch.testing.assert_close(adapted.module(tokens), expected, rtol=0, atol=0)
    torch.testing.assert_close(logits(graph, tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        Fields,
        Pair,
        lambda x: {"logits": x, "loss": None},
        lambda x: Keyed(logits=x),
        lambda x: (None, x.sum(-1), x[..., :3], x),
        lambda x: [x],
    ],
    ids=["tensor", "dataclass", "named tuple", "dict", "mapping", "tuple", "list"],
)
def test_logits_are_found_in_what_a_forward_returns(wrap: Any) -> None:
    same(wrapped(wrap))


def test_a_plain_module_is_not_wrapped() -> None:
    module = Toy()
    assert adapt(module, SPEC, TOKENS).module is module


def test_a_module_that_is_compiled_is_taken_as_written() -> None:
    module = Toy()
    assert adapt(torch.compile(module), SPEC).module is module  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", [lambda _: None, lambda x: {"scores": x}, lambda x: (x.sum(-1),)])
def test_an_output_without_logits_is_refused(wrap: Any) -> None:
    with pytest.raises(CaptureError, match=r"forward of Wrapped returns a .* there are no logits"):
        adapt(wrapped(wrap), SPEC)


@pytest.mark.parametrize(
    "wrap", [lambda x: x[:, -1:], lambda x: x.sum(1), lambda x: x.argmax(-1), lambda x: x.long()]
)
def test_logits_of_another_shape_or_dtype_are_refused(wrap: Any) -> None:
    with pytest.raises(CaptureError, match=r"it must make logits \[3, 7, vocabulary\]"):
        adapt(wrapped(wrap), SPEC)


class Asking(Toy):
    """Requires a mask and places, and counts on both."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        return_dict: bool | None = None,
    ) -> Any:
        assert return_dict
        assert attention_mask.shape == input_ids.shape
        x = self.embed(input_ids) + self.places(position_ids)
        x = x * attention_mask[..., None]
        for layer in range(self.layers):
            x = x + self.out[layer](self.attend(self.norms[2 * layer](x), layer))
            x = x + self.feed(self.norms[2 * layer + 1](x), layer)
        return Fields(self.head(self.norms[-1](x)))


def test_a_required_mask_and_places_are_built_for_every_canvas() -> None:
    same(Asking())


def test_a_mask_of_ones_and_places_in_the_example_follow_the_canvas() -> None:
    mask = torch.ones(1, 5, dtype=torch.bool)
    places = torch.arange(5, dtype=torch.int32)[None]
    example = {"input_ids": TOKENS, "attention_mask": mask, "position_ids": places}
    plan, tokens = plan_call(Asking(), example)
    assert tokens is TOKENS
    assert plan.following == {
        "attention_mask": Following("ones", torch.bool),
        "position_ids": Following("places", torch.int32),
    }
    same(Asking(), example)
    same(Asking(), (TOKENS, mask, places))


def test_a_mask_that_pads_is_refused() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    with pytest.raises(UsageError, match=r"`attention_mask` with shape \[1, 5\].* leave it out"):
        adapt(Asking(), SPEC, {"input_ids": TOKENS, "attention_mask": mask})


class Scaled(Toy):
    """Tokens are not the first argument; another is required."""

    def forward(  # type: ignore[override]
        self, scale: float, *, input_ids: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        x = super().forward(input_ids) * scale
        return x if bias is None else x + bias


def test_other_arguments_of_the_example_are_the_same_at_every_call() -> None:
    example = {"input_ids": TOKENS, "scale": 1.0, "bias": torch.zeros(VOCAB)}
    plan, _ = plan_call(Scaled(), example)
    assert plan.tokens == "input_ids"
    assert set(plan.constants) == {"scale", "bias"}
    same(Scaled(), example)


def test_a_missing_argument_is_asked_for() -> None:
    with pytest.raises(UsageError, match="the forward of Scaled needs `scale`; give it in"):
        adapt(Scaled(), SPEC, TOKENS)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no `scael`; did you mean `scale`"):
        adapt(Scaled(), SPEC, {"input_ids": TOKENS, "scael": 1.0})


def test_too_many_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="`example` has 3 arguments, and the forward of Wrapped"):
        adapt(Wrapped(), SPEC, (TOKENS, False, None))


@pytest.mark.parametrize(
    "tokens", [torch.full((1, 5), 0.5), torch.zeros(5, dtype=torch.int64), None, "hello"], ids=repr
)
def test_tokens_must_be_ids(tokens: Any) -> None:
    with pytest.raises(UsageError, match="for `input_ids`; give token ids, an integer tensor"):
        adapt(Wrapped(), SPEC, {"input_ids": tokens})


def test_a_forward_of_any_arguments_gets_tokens_alone() -> None:
    class Loose(Toy):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
            assert not kwargs
            return super().forward(*args)

    same(Loose())


def test_a_module_that_fails_on_the_example_is_refused_with_its_line() -> None:
    class Failing(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            return x @ x

    with pytest.raises(CaptureError, match=r"Failing fails on the example: RuntimeError: .*") as e:
        adapt(Failing(), SPEC, TOKENS)
    assert re.search(r" at \S*test_adapters\.py:\d+$", str(e.value))


def test_the_module_is_left_as_it_was() -> None:
    module = Wrapped().train()
    module.head.requires_grad_(True)
    before = dict(vars(module))
    adapt(module, SPEC)
    assert vars(module) == before
    assert module.training
    assert module.head.weight.requires_grad


def test_what_the_module_says_of_itself_is_passed_on() -> None:
    module = Wrapped()
    module.expected_matches = lambda: {"match_rotary": 4}  # type: ignore[attr-defined]
    adapted: Any = adapt(module, SPEC).module
    assert adapted.expected_matches() == {"match_rotary": 4}
    assert "aten.linear.default" in operators(capture(adapted, SPEC))


def test_weights_of_several_dtypes_are_refused_by_name() -> None:
    module = Toy()
    module.head.half()
    with pytest.raises(CaptureError, match=r"torch\.float16 \(`head\.weight`\), torch\.float64"):
        adapt(module, SPEC)


def test_weights_without_content_are_refused_by_name() -> None:
    module = Toy()
    module.head.to("meta")
    with pytest.raises(CaptureError, match=r"`head\.weight` is on the device `meta`"):
        adapt(module, SPEC)


def test_a_module_without_weights_is_refused() -> None:
    with pytest.raises(CaptureError, match="the weights have the dtypes none"):
        adapt(nn.Identity(), SPEC)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UsageError, match="`int` is no torch module; give one"):
        adapt(3, SPEC)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_module_of_torchscript_is_refused() -> None:
    scripted = torch.jit.trace(Toy(), TOKENS, check_trace=False)
    with pytest.raises(CaptureError, match="is a TorchScript module"):
        adapt(scripted, SPEC)
