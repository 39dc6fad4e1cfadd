"""Make a plain denoiser of a module that takes and returns more than one tensor.

Modelling code as it is published takes `input_ids`, `attention_mask`, `position_ids`,
`use_cache` and others, and returns an object in which the logits are one field.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dllmc.spec import CaptureError, UsageError, nearest

Example = Tensor | Mapping[str, Any] | Sequence[Any] | None

# Said to every module that knows them: nothing is kept between calls, fields have names.
_ALWAYS = {"use_cache": False, "return_dict": True}
_TOKENS = "input_ids"
_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Following:
    """An argument with an entry per token.

    Attributes:
        what: `ones`, or `places`: 0, 1, 2 and so on.
        dtype: Of the argument.
        axes: 2 for `[B, T]` (`[1, T]` of places), 1 for `[T]`.
    """

    what: Literal["ones", "places"]
    dtype: torch.dtype = torch.int64
    axes: int = 2

    def build(self, tokens: Tensor) -> Tensor:
        if self.what == "ones":
            ones = torch.ones_like(tokens, dtype=self.dtype)
            return ones if self.axes == 2 else ones[0]
        places = torch.arange(tokens.shape[1], device=tokens.device, dtype=self.dtype)
        return places[None] if self.axes == 2 else places


# What a module may require beside the tokens, and what it then gets.
_REQUIRED = {"attention_mask": Following("ones"), "position_ids": Following("places")}


@dataclass(frozen=True)
class CallPlan:
    """How a module is called.

    Attributes:
        tokens: Name under which tokens go in, or None for the first position.
        constants: Other arguments, the same at every call.
        following: Arguments that follow the canvas.
        hidden: Whether the signature names no argument, which torch.export cannot follow.
    """

    tokens: str | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    following: Mapping[str, Following] = field(default_factory=dict)
    hidden: bool = False

    @property
    def plain(self) -> bool:
        """Whether the module takes tokens alone."""
        return not (self.tokens or self.constants or self.following or self.hidden)


class Adapter(nn.Module):
    """Tokens `[B, T]` -> logits `[B, T, V]`, whatever `module` takes and returns."""

    def __init__(self, module: nn.Module, plan: CallPlan, width: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.plan = plan
        self.width = width
        self.training = module.training

    def forward(self, tokens: Tensor) -> Tensor:
        named = dict(self.plan.constants)
        named |= {name: rule.build(tokens) for name, rule in self.plan.following.items()}
        if self.plan.tokens is None:
            output = self.module(tokens, **named)
        else:
            output = self.module(**{self.plan.tokens: tokens}, **named)
        return logits_in(output, self.width, type(self.module).__name__)

    def expected_matches(self) -> dict[str, int]:
        """What the adapted module says of itself, if it says anything."""
        said: dict[str, int] = getattr(self.module, "expected_matches", dict)()
        return said


def name_of(module: nn.Module) -> str:
    """The class of `module` as its owner knows it."""
    return type(module.module if isinstance(module, Adapter) else module).__name__


def plan_call(module: nn.Module, example: Example) -> tuple[CallPlan, Tensor | None]:
    """How `module` is called, and the example's tokens.

    Args:
        module: Whose forward takes token ids and whatever else.
        example: Token ids `[B, T]`; a mapping of arguments by name; or a tuple of arguments by
            position. The tokens are the argument `input_ids`, or else the first; everything else
            is the same at every call, but for an `attention_mask` of ones and `position_ids` that
            count, which follow the canvas.

    Raises:
        UsageError: The module needs arguments that the example does not give, or the example
            holds a tensor of the example's length that cannot follow the canvas.
    """
    parameters = inspect.signature(module.forward).parameters
    names = [name for name, p in parameters.items() if p.kind not in _VARIADIC]
    own = _TOKENS if _TOKENS in names else next(iter(names), None)
    given = _by_name(module, example, own, parameters)
    key = _TOKENS if _TOKENS in given else next(iter(given), own)
    tokens = given.pop(key, None) if key is not None else None
    if example is not None:
        _check_tokens(key, tokens)
    constants = {name: value for name, value in _ALWAYS.items() if name in names}
    needed = {name for name in names if parameters[name].default is inspect.Parameter.empty}
    following = {name: rule for name, rule in _REQUIRED.items() if name in needed}
    for name, value in given.items():
        rule = _follows(name, value, tokens)
        following.pop(name, None)
        if rule is None:
            constants[name] = value
        else:
            following[name] = rule
    if missing := sorted(needed - {key, *constants, *following}):
        raise UsageError(
            f"the forward of {type(module).__name__} needs `{missing[0]}`; give it in `example`, "
            f"such as {{{key!r}: tokens, {missing[0]!r}: ...}}: it is the same at every call"
        )
    first = bool(names) and key == names[0] and parameters[key].kind in _BY_POSITION
    plan = CallPlan(None if first else key, constants, following, hidden=not names)
    return plan, tokens


def _by_name(
    module: nn.Module,
    example: Example,
    own: str | None,
    parameters: Mapping[str, inspect.Parameter],
) -> dict[str, Any]:
    """The arguments in `example` by name."""
    if example is None or own is None:
        return {}
    if isinstance(example, Tensor):
        return {own: example}
    if isinstance(example, Mapping):
        found = dict(example)
    else:
        positional = [name for name, p in parameters.items() if p.kind in _BY_POSITION]
        found = dict(zip(positional, example, strict=False))
        if len(found) < len(example):
            raise UsageError(
                f"`example` has {len(example)} arguments, and the forward of "
                f"{type(module).__name__} takes {len(positional)}"
            )
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = sorted(set(found) - set(parameters))
    if unknown and not takes_any:
        raise UsageError(
            f"the forward of {type(module).__name__} takes no `{unknown[0]}`; "
            f"{nearest(unknown[0], parameters)}"
        )
    return found


def _check_tokens(name: str | None, tokens: Any) -> None:
    if isinstance(tokens, Tensor):
        ids = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
        if ids and tokens.dim() == 2 and tokens.numel():
            return
        what = f"of {tokens.dtype} with shape {list(tokens.shape)}"
    else:
        what = f"a `{type(tokens).__name__}`"
    raise UsageError(
        f"`example` has {what} for `{name}`; give token ids, an integer tensor [batch, length], "
        "as `input_ids` or first"
    )


def _follows(name: str, value: Any, tokens: Tensor | None) -> Following | None:
    """The rule by which an argument of the example follows the canvas; None for a constant."""
    if not isinstance(value, Tensor) or tokens is None or tokens.shape[1] not in value.shape:
        return None
    batch, length = tokens.shape
    if list(value.shape) in ([batch, length], [1, length], [length]):
        if bool((value == 1).all()):
            return Following("ones", value.dtype, value.dim())
        if bool((value == torch.arange(length, device=value.device)).all()):
            return Following("places", value.dtype, value.dim())
    raise UsageError(
        f"`example` has `{name}` with shape {list(value.shape)}, an entry per token, which is not "
        "known for other canvases; leave it out, or give ones or the places 0, 1, 2, ..."
    )


def logits_in(output: Any, width: int | None, name: str) -> Tensor:
    """The logits `[B, T, V]` in what a forward returned.

    Args:
        output: A tensor; something with `logits`, as field or key; or a tuple of which the first
            tensor of three axes, the last of `width`, is taken.
        width: V, or None where it is not known yet.
        name: Of the module, for messages.

    Raises:
        CaptureError: There are none.
    """
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None and isinstance(output, list | tuple):
        parts = [p for p in output if isinstance(p, Tensor) and p.dim() == 3]
        found = next((p for p in parts if width is None or p.shape[-1] == width), None)
    if isinstance(found, Tensor):
        return found
    raise CaptureError(
        f"the forward of {name} returns a `{type(output).__name__}` in which there are no logits; "
        "return a tensor [batch, length, vocabulary], or an object with `logits`"
    )


def tile(tokens: Tensor | None, batch: int, length: int) -> Tensor:
    """`tokens` repeated and cut to `[batch, length]` int64; zeros where there are none."""
    if tokens is None:
        return torch.zeros(batch, length, dtype=torch.int64)
    flat = tokens.reshape(-1).to(torch.int64)
    times = -(-batch * length // len(flat))
    return flat.repeat(times)[: batch * length].reshape(batch, length)
