"""Stand-ins for torch-tensorrt and TensorRT: an engine is an exported program, run on a CPU.

They refuse what the real ones would: addresses of tensors that are gone, shapes outside of the
profile, and inputs and outputs in one buffer.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

INPUT, OUTPUT = "input", "output"


@dataclass
class Spec:
    """`torch_tensorrt.Input`."""

    min_shape: tuple[int, ...]
    opt_shape: tuple[int, ...]
    max_shape: tuple[int, ...]
    dtype: torch.dtype
    name: str


@dataclass
class TorchTensorRT:
    """The module `torch_tensorrt`; `lacking` are operators without a converter."""

    lacking: tuple[str, ...] = ()
    built: list[tuple[Any, list[Spec], dict[str, Any]]] = field(default_factory=list)
    fails: str | None = None
    Input: Any = Spec

    @property
    def dynamo(self) -> Any:
        def settings(**given: Any) -> Any:
            return SimpleNamespace(use_distributed_mode_trace=False, **given)

        def convert(program: Any, arg_inputs: list[Spec], **options: Any) -> bytes:
            if self.fails is not None:
                raise RuntimeError(self.fails)
            self.built.append((program, arg_inputs, options))
            return f"engine {len(self.built) - 1}".encode()

        return SimpleNamespace(
            CompilationSettings=settings,
            convert_exported_program_to_serialized_trt_engine=convert,
            lowering=SimpleNamespace(
                pre_export_lowering=lambda program, _: program,
                get_decompositions=lambda *_: {},
                post_lowering=lambda module, _: module,
            ),
            conversion=SimpleNamespace(DYNAMO_CONVERTERS=self),
        )

    def __contains__(self, node: Any) -> bool:
        return str(node.target) not in self.lacking


@dataclass
class TensorRT:
    """The module `tensorrt`, which runs what `builder` has built."""

    builder: TorchTensorRT
    __version__: str = "11.0.0"

    class Logger:
        WARNING = 1

        def __init__(self, level: int) -> None:
            del level

    class TensorIOMode:
        INPUT, OUTPUT = INPUT, OUTPUT

    def Runtime(self, _: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, content: bytes) -> Any:
        words = content.decode().split()
        return StandIn(*self.builder.built[int(words[1])]) if words[0] == "engine" else None


@dataclass
class StandIn:
    """An engine and its execution context."""

    program: Any
    takes: list[Spec]
    options: dict[str, Any]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        count = len(self.program.graph.output_node().args[0])
        return [*(take.name for take in self.takes), *(f"output{n}" for n in range(count))]

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> str:
        return INPUT if number_of(self.names, name) < len(self.takes) else OUTPUT

    def create_execution_context(self) -> StandIn:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        take = self.takes[number_of(self.names, name)]
        assert all(
            low <= n <= high
            for low, n, high in zip(take.min_shape, shape, take.max_shape, strict=True)
        ), f"{name} {shape} is outside of the profile"
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        del stream
        assert set(self.addresses) == set(self.names)
        assert len(set(self.addresses.values())) == len(self.names), "buffers are shared"
        given = [
            read(self.addresses[take.name], self.shapes[take.name], take.dtype)
            for take in self.takes
        ]
        made = self.program.module()(*given)
        for name, tensor in zip(self.names[len(self.takes) :], made, strict=True):
            whole = tensor.contiguous()
            size = whole.numel() * whole.element_size()
            ctypes.memmove(self.addresses[name], whole.data_ptr(), size)
        return True


def number_of(names: list[str], name: str) -> int:
    return names.index(name)


def read(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    found = torch.empty(shape, dtype=dtype)
    ctypes.memmove(found.data_ptr(), address, math.prod(shape) * found.element_size())
    return found
