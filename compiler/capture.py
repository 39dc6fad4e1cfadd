"""Capture a denoiser as a graph with dynamic batch and length."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from dllmc.spec import CaptureError

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from dllmc.spec import DenoiserSpec

# Batch 1 would silently be captured as the constant 1.
_BATCH, _LENGTH = 3, 7


def capture(module: nn.Module, spec: DenoiserSpec) -> GraphModule:
    """A graph module `tokens [B, T] -> logits [B, T, V]` in torch.export's operators.

    Its parameters are those of `module`, not copies. No operator changes its input.

    Raises:
        CaptureError: torch.export refuses the module, or batch and length are not dynamic.
    """
    length = min(_LENGTH, spec.max_length - 1)
    tokens = torch.zeros(_BATCH, length, dtype=torch.int64, device=_device(module))
    shapes = ({0: Dim("batch"), 1: Dim("length", max=spec.max_length)},)
    try:
        with torch.no_grad():
            program = torch.export.export(module, (tokens,), dynamic_shapes=shapes, strict=False)
            program = _without_mutation(program)
    except Exception as error:
        # torch.export raises dozens of types, none of which is ours to distinguish.
        raise CaptureError(
            f"torch.export cannot capture {type(module).__name__}: {_reason(error)}; run with "
            "--debug for its whole report"
        ) from error
    captured = program.module(check_guards=False)
    # The plain code generator drops the input check against the original signature, which every
    # call after adding an input would fail.
    captured.graph.set_codegen(torch.fx.graph.CodeGen())
    plain = torch.fx.GraphModule(captured, captured.graph)
    placeholders = [node for node in plain.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != 1:
        names = ", ".join(str(node.target) for node in placeholders)
        raise CaptureError(f"the module takes the inputs {names}; it must take tokens alone")
    placeholders[0].target = placeholders[0].name = "tokens"
    _inputs_first(plain)
    return plain


def _reason(error: Exception) -> str:
    """The first line of `error`, or what it says of batch and length."""
    text = str(error).strip()
    fixed = re.search(
        r"marked (\w+) as dynamic .* specialized it to be a constant \((\d+)\)", text
    )
    if fixed:
        return f"its code works for `{fixed[1]}` = {fixed[2]} only, and takes it for a number"
    return (text.splitlines() or [type(error).__name__])[0]


def _without_mutation(program: ExportedProgram) -> ExportedProgram:
    """Write `x += y` as `x + y`: passes may move and share nodes only where nothing is mutated.

    Only where needed, since the rewriting loses source lines.
    """
    if not any(_mutates(node.target) for node in program.graph.nodes):
        return program
    plain: ExportedProgram = program.run_decompositions({})
    signature = plain.graph_signature
    changed = {*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()}
    if changed:
        raise ValueError(f"the forward changes {', '.join(sorted(changed))}; it must not")
    return plain


def _mutates(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _inputs_first(module: GraphModule) -> None:
    """Move inputs in front of parameters, where all later passes add theirs."""
    for node in list(module.graph.nodes):
        if node.op == "placeholder":
            first = next(iter(module.graph.nodes))
            if node is not first:
                first.prepend(node)
    module.graph.lint()
    module.recompile()


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
