"""Definition of canonical operators and of their implementations.

A canonical operator is an overload `dllmc::name` whose body is its plain-torch reference. An
implementation is another overload of the same name, `dllmc::name.implementation`, with the same
signature; the lowering pass swaps one for the other. Bodies are registered as
CompositeImplicitAutograd, so that Inductor sees through them and fuses them with what is around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Overload = torch._ops.OpOverload[..., Any]

NAMESPACE = "dllmc"
# Dispatch key of functions for any device: Triton's run on GPUs, and in its interpreter on CPUs.
ANYWHERE = "CompositeExplicitAutograd"
_library = torch.library.Library(NAMESPACE, "DEF")
_implementations: dict[str, set[str]] = {}
# By overload, `name.default` of canonical operators and helpers among them.
_bodies: dict[str, Callable[..., Any]] = {}


def define(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the reference body of a canonical operator.

    Args:
        signature: Name and schema, e.g. `swiglu(Tensor gate, Tensor up) -> Tensor`.
    """
    name = signature.partition("(")[0]

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(signature)
        _library.impl(name, function, "CompositeImplicitAutograd")
        _implementations[name] = set()
        _bodies[f"{name}.default"] = function
        implement(name, "torch", signature)(function)
        return function

    return register


def implement(
    name: str,
    implementation: str,
    signature: str,
    *,
    opaque_on: str | None = None,
    fake: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as an implementation of a canonical operator.

    Args:
        name: Of the operator.
        implementation: Of this implementation.
        signature: The operator's, as given to `define`.
        opaque_on: Dispatch key (`CPU`, `CUDA`, `ANYWHERE`) of a function that compilers must not
            look into.
        fake: For an opaque function, the same on shapes alone.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        overload = f"{name}.{implementation}"
        _library.define(overload + signature[len(name) :])
        _library.impl(overload, function, opaque_on or "CompositeImplicitAutograd")
        if fake is not None:
            torch.library.register_fake(f"{NAMESPACE}::{overload}", fake, lib=_library)
        _implementations[name].add(implementation)
        if opaque_on is None:
            _bodies[overload] = function
        return function

    return register


def opaque(
    signature: str, fake: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as a helper that compilers must not look into.

    Args:
        signature: Name and schema.
        fake: The same on shapes alone.
    """
    name = signature.partition("(")[0]

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(signature)
        _library.impl(name, function, ANYWHERE)
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
        _bodies[f"{name}.default"] = function
        return function

    return register


def bodies() -> dict[Overload, Callable[..., Any]]:
    """What operators and helpers compute in plain torch, for exporters: nobody else knows them."""
    return {implementation(*name.split(".")): body for name, body in _bodies.items()}


def canonical(name: str) -> Overload:
    """The canonical overload `dllmc::name`."""
    return implementation(name, "default")


def implementation(name: str, which: str) -> Overload:
    """The overload that lowering puts in place of `dllmc::name`."""
    return cast("Overload", getattr(getattr(torch.ops.dllmc, name), which))


def canonical_names() -> tuple[str, ...]:
    """Every canonical operator."""
    return tuple(_implementations)


def implementations(name: str) -> frozenset[str]:
    """What `dllmc::name` can be lowered to; `torch` is always among them."""
    return frozenset(_implementations[name])
