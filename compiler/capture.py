"""Capture a denoiser as a flat graph with dynamic batch and length."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo.config as dynamo_config
from torch._dynamo.exc import UserError
from torch.export import Dim
from torch.overrides import TorchFunctionMode

from dllmc.compiler._adapter import name_of
from dllmc.compiler._export_report import SizeWatch, quietly, reason
from dllmc.compiler._inline import inline_wrappers
from dllmc.compiler._source import place_of_error, place_of_node, recording_lines
from dllmc.compiler._state import unchanged
from dllmc.spec import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from dllmc.spec import DenoiserSpec

# Batch 1 would silently be captured as the constant 1.
BATCH, LENGTH = 3, 7
# Where the graph must compute what the module does, having been traced elsewhere.
_OTHER_BATCH, _OTHER_LENGTH = 2, 11
_MODULE_HINT = "run with --debug for its whole report"


def capture(module: nn.Module, spec: DenoiserSpec, *, wide: bool = False) -> GraphModule:
    """A graph module `tokens [B, T] -> logits [B, T, V]` in torch.export's operators.

    Its parameters are those of `module`, not copies. No operator changes its input; there are no
    higher-order wrappers. It was executed beside the module at a batch and a length that it was
    not traced at.

    Args:
        module: Tokens `[B, T]` int64 -> logits `[B, T, V]`, in evaluation mode.
        spec: Of the denoiser.
        wide: Write float64 where the module's code says a narrower dtype, for a module of
            float64: what a pass changes then shows, and is not lost in rounding to float32.

    Raises:
        CaptureError: torch.export refuses the module, batch and length are not dynamic, or the
            graph does not compute what the module does. The message names the user's source
            line where torch.export knows it.
    """
    with unchanged(module):
        with widening() if wide else contextlib.nullcontext():
            program = _export(module, spec)
        graph = _flat_graph(program)
    with unchanged(module):
        _check_elsewhere(graph, module, spec, wide)
    return graph


@contextlib.contextmanager
def widening() -> Iterator[None]:
    """Every floating dtype that code asks for, or gets where it asks for none, is float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(default)


class _Widening(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        if func is torch.empty_strided:
            # How torch.export mirrors a tensor that is there already.
            return func(*args, **(kwargs or {}))
        if func in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
            func = torch.Tensor.double
        named = {key: _widened(value) for key, value in (kwargs or {}).items()}
        return func(*map(_widened, args), **named)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    return value


def _export(module: nn.Module, spec: DenoiserSpec) -> ExportedProgram:
    length = min(LENGTH, spec.max_length - 1)
    tokens = torch.zeros(BATCH, length, dtype=torch.int64, device=_device(module))
    watch = SizeWatch()
    handle = watch.attach(module)
    try:
        with recording_lines(), quietly():
            try:
                program = _export_up_to(module, tokens, spec.max_length)
            except UserError:
                # A table of exactly `max_length` positions, cut to the canvas, is contiguous for
                # the longest canvas alone, which torch.export takes for another way of the code.
                program = _export_up_to(module, tokens, spec.max_length - 1)
        return _without_mutation(program)
    except Exception as error:
        # torch.export raises dozens of types, none of which is ours to distinguish.
        raise CaptureError(
            f"torch.export cannot capture {name_of(module)}: {reason(error, watch)}; "
            f"{_MODULE_HINT}"
        ) from error
    finally:
        handle.remove()


def _export_up_to(module: nn.Module, tokens: Tensor, longest: int) -> ExportedProgram:
    shapes = ({0: Dim("batch"), 1: Dim("length", max=longest)},)
    # The cache of fake results hardly ever hits with symbolic sizes, and keeping it takes a
    # quarter of the time: 1.3 and 0.9 s for two layers of LLaDA2.
    with dynamo_config.patch(fake_tensor_cache_enabled=False):
        return torch.export.export(module, (tokens,), dynamic_shapes=shapes, strict=False)


def _flat_graph(program: ExportedProgram) -> GraphModule:
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
    inline_wrappers(plain)
    _write_dtypes(plain)
    return plain


def _write_dtypes(module: GraphModule) -> None:
    """Say what `torch.ones(n)` makes: a graph must not depend on the default of the day."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(node.target, torch._ops.OpOverload) or "dtype" in node.kwargs:
            continue
        named = {a.name for a in node.target._schema.arguments if a.kwarg_only}
        reads = any(isinstance(n.meta.get("val"), torch.Tensor) for n in node.all_input_nodes)
        if "dtype" in named and isinstance(value, torch.Tensor) and not reads:
            node.kwargs = {**node.kwargs, "dtype": value.dtype}
    module.recompile()


def _without_mutation(program: ExportedProgram) -> ExportedProgram:
    """Write `x += y` as `x + y`: passes may move and share nodes only where nothing is mutated.

    Only where needed, since the rewriting loses names.
    """
    mutating = [
        node
        for graph in program.graph_module.modules()
        if isinstance(graph, torch.fx.GraphModule)
        for node in graph.graph.nodes
        if _mutates(node.target)
    ]
    if not mutating:
        return program
    plain: ExportedProgram = program.run_decompositions({})
    signature = plain.graph_signature
    changed = {*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()}
    if changed:
        place = next((place_of_node(n) for n in mutating if _origin(n).op == "placeholder"), "")
        names = ", ".join(sorted(changed))
        raise ValueError(f"the forward changes {names}{place}; it must not")
    return plain


def _mutates(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _origin(node: Node) -> Node:
    """What `node` writes to, through its views."""
    while node.op == "call_function" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _inputs_first(module: GraphModule) -> None:
    """Move inputs in front of parameters, where all later passes add theirs."""
    for node in list(module.graph.nodes):
        if node.op == "placeholder":
            first = next(iter(module.graph.nodes))
            if node is not first:
                first.prepend(node)
    module.graph.lint()
    module.recompile()


def _check_elsewhere(
    graph: GraphModule, module: nn.Module, spec: DenoiserSpec, wide: bool
) -> None:
    """Run both at a size that the graph was not traced at."""
    name = name_of(module)
    length = min(_OTHER_LENGTH, spec.max_length)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(spec.vocab_size, (_OTHER_BATCH, length), generator=random)
    tokens[0, 0] = spec.mask_id
    tokens = tokens.to(_device(module))
    size = f"batch {_OTHER_BATCH} and length {length}"
    try:
        with widening() if wide else contextlib.nullcontext():
            expected = module(tokens)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, IndexError) and "out of range in self" in said:
            what = (
                f"{name} does not know every token id under `vocab_size`={spec.vocab_size}, the "
                f"width of its logits, or every position under {length}: "
            )
        else:
            what = f"{name} runs at batch {BATCH} and length {LENGTH}, but not at {size}: "
        raise CaptureError(f"{what}{said}{place_of_error(error)}") from error
    (found,) = graph(tokens)
    if found.shape != expected.shape or not _close(found, expected):
        raise CaptureError(
            f"the graph of {name} computes something else than the module at {size}: a shape is "
            "frozen at the example's length, or the forward draws random numbers or keeps "
            "something between calls; make it a function of the tokens alone"
        )


def _close(found: Tensor, expected: Tensor) -> bool:
    # The same operators on the same numbers, of which only in-place ones were rewritten.
    allowed = 64 * torch.finfo(expected.dtype).eps * expected.abs().amax().clamp_min(1.0)
    return bool(((found - expected).abs() <= allowed).all())


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
