"""Make an exported model small and readable: fused operators, names, and no weights in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from dllmc.artifact.binaries import Input
from dllmc.spec import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

# Numbers of a constant up to which operators on it are folded: shapes and axes have fewer. A
# folded weight would be a second copy, transposed; a runtime packs it as it likes.
_SMALL: Final = 64
# Bytes of a constant that is no weight, beyond which something has gone wrong.
_LARGE: Final = 1 << 20
_LAYER: Final = re.compile(r".*?\.\d+(?=\.)")
_PLACEHOLDER: Final = "weights.safetensors"


def tidy(
    model: Any, takes: Mapping[str, Input], gives: Sequence[str], weights: Mapping[str, Tensor]
) -> dict[str, str]:
    """Fuse and fold operators of `model`, an `onnx_ir.Model`, and name what is in it.

    Args:
        model: Exported and not optimised; changed in place.
        takes: What its inputs are, in order.
        gives: Names of its outputs, in order.
        weights: Of the step, by name.

    Returns:
        Names of weights by the names of the model's initialisers that hold them.
    """
    import onnxscript

    onnxscript.optimizer.optimize_ir(model, should_fold=_folds)
    onnxscript.rewriter.onnx_fusions.fuse(model)
    _name_outputs(model, gives)
    _name_sizes(model, takes)
    found = _name_weights(model, weights)
    _name_nodes(model)
    _strip(model)
    return found


def serialised(model: Any, *, name: str, weights: Mapping[str, str]) -> bytes:
    """`model` as a file's content, whose large weights stand in another file.

    Where in that file is said when it is written, by `dllmc.artifact.exports.write_exports`.

    Args:
        model: From `tidy`.
        name: Of the graph.
        weights: As `tidy` returned them.

    Raises:
        PlanError: It holds large constants that are not weights of the step.
    """
    import onnx_ir

    for value in model.graph.initializers.values():
        constant = value.const_value
        if value.name in weights:
            value.const_value = onnx_ir.ExternalTensor(
                _PLACEHOLDER, 0, constant.nbytes, constant.dtype, shape=constant.shape,
                name=value.name,
            )  # fmt: skip
        elif constant.nbytes > _LARGE:
            raise PlanError(
                f"the exported model holds a constant `{value.name}` of {constant.nbytes} bytes "
                "that is no weight of the step; export with another version of onnxscript"
            )
    model.graph.name = name
    model.producer_name, model.producer_version = "dllmc", None
    content: bytes = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    return content


def output_of(value: Any) -> Input:
    """What an output of a model is."""
    sizes = tuple(n if isinstance(n, int) else str(n.value) for n in value.shape)
    return Input.model_validate({"dtype": _dtype(value), "sizes": sizes})


def _dtype(value: Any) -> str:
    name: str = value.dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _folds(node: Any) -> bool | None:
    """Whether a node may be folded: not if it reads a weight; None is if the optimiser likes."""
    constants = [v.const_value for v in node.inputs if v is not None]
    large = any(constant is not None and constant.size > _SMALL for constant in constants)
    return False if large else None


def _name_outputs(model: Any, gives: Sequence[str]) -> None:
    for node in model.graph:
        for value in node.outputs:
            if value.name in gives:
                value.name += "_value"
    for value, name in zip(model.graph.outputs, gives, strict=True):
        value.name = name


def _name_sizes(model: Any, takes: Mapping[str, Input]) -> None:
    """Call sizes what plans call them."""
    import onnx_ir

    names = {
        str(dim.value): size
        for value, take in zip(model.graph.inputs, takes.values(), strict=True)
        for dim, size in zip(value.shape, take.sizes, strict=True)
        if not isinstance(dim, int)
    }
    made = [value for node in model.graph for value in node.outputs]
    for value in [*model.graph.inputs, *made]:
        if value.shape is not None:
            sizes = [d if isinstance(d, int) else names.get(str(d.value)) for d in value.shape]
            value.shape = onnx_ir.Shape(sizes)


def _name_weights(model: Any, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Give initialisers that are weights the names of weights, with dots."""
    # The exporter says `b_name` of a buffer, with underscores for dots.
    known = {_flat(name): name for name in weights}
    found = {}
    for value in list(model.graph.initializers.values()):
        name = known.get(_flat(value.name)) or known.get(_flat(value.name.removeprefix("b_")))
        if name is None:
            continue
        shown = name.replace("__", ".")
        if shown != value.name:
            model.graph.initializers.pop(value.name)
            value.name = shown
            model.graph.initializers[shown] = value
        found[shown] = name
    return found


def _flat(name: str) -> str:
    return re.sub(r"[._]+", "_", name)


def _name_nodes(model: Any) -> None:
    """`layer/operator` for every node, the layer being that of the last weight that was read."""
    layer, count = "", dict[str, int]()
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                within = _LAYER.match(value.name or "")
                layer = within.group() if within else layer
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        count[name] = count.get(name, 0) + 1
        node.name = f"{name}_{count[name]}" if count[name] > 1 else name


def _strip(model: Any) -> None:
    """Remove what the exporter notes of its own work, source lines among it."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
