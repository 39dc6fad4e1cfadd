"""Run exported steps in ONNX Runtime, on the engine's own caches."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import torch

from dllmc.artifact import weights_of
from dllmc.runtime.programs._checked import CheckedInputs, sizes_by_name
from dllmc.runtime.programs.base import Programs, Statistics, example_inputs, example_of
from dllmc.spec import ArtifactError, PlanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.artifact.binaries import Input
    from dllmc.artifact.exports import ExportedProgram, Exports
    from dllmc.spec import StepPlan

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# `onnx.TensorProto.DataType`, without the package that has it.
_TYPES: Final = {
    torch.float32: 1, torch.int64: 7, torch.bool: 9, torch.float16: 10, torch.float64: 11,
    torch.bfloat16: 16,
}  # fmt: skip
_WARNINGS_OFF: Final = 3


class OnnxPrograms(Programs):
    """The exported programs of a package, in ONNX Runtime.

    Args:
        package: With programs that were exported to ONNX.
        device: Where they run. A GPU takes `onnxruntime-gpu`; not run yet.

    Raises:
        UsageError: It has none, or ONNX Runtime is missing or not for this device.
    """

    execution = "onnxruntime"

    def __init__(self, package: Package, device: torch.device) -> None:
        super().__init__(package)
        if package.exports is None:
            raise UsageError(
                f"`{package.name}` holds no ONNX programs; make them with `dllmc compile MODEL "
                "-o ARTIFACT --backend onnxruntime`, or use another back end"
            )
        self._exports: Exports = package.exports
        self._device = device
        self._runtime = _runtime(device)
        self._weights = {
            name.replace(".", "__"): weight.detach().contiguous()
            for name, weight in weights_of(*package.graphs.values()).items()
        }
        self._known = {program.kind: program for program in self._exports.listing.programs}
        self._sessions: dict[tuple[object, ...], OnnxSession] = {}
        self._making = threading.Lock()

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        kind = plan.statistics, plan.mask, plan.inputs, plan.saliency
        with self._making:
            if kind not in self._sessions:
                self._sessions[kind] = self._session(kind, plan)
        return self._sessions[kind](plan, inputs)

    def check(self) -> None:
        """See that ONNX Runtime takes every program.

        Raises:
            ArtifactError: It does not: it has no kernels for some dtypes on some devices.
        """
        for program in self._known.values():
            self._loaded(program)

    def _session(self, kind: tuple[object, ...], plan: StepPlan) -> OnnxSession:
        program = self._known.get(kind)
        if program is None:
            raise PlanError(
                f"`{self.package.name}` has no ONNX program for plan `{plan.key}`; add it with "
                "`dllmc compile ARTIFACT --add-plan CONFIG`, the configuration that asks for it"
            )
        session = OnnxSession(program, self._loaded(program), self._device, self.package.spec)
        example = example_of(plan.model_copy(update={"batch": 2}))
        session.settle(example, example_inputs(self.graph(plan), example, self._device))
        return session

    def _loaded(self, program: ExportedProgram) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _WARNINGS_OFF
        given = {name: self._weight(weight) for name, weight in program.weights.items()}
        options.add_external_initializers(list(given), list(given.values()))
        content = self._exports.files[program.file]
        try:
            return self._runtime.InferenceSession(content, options, providers=self._providers())
        except Exception as error:  # ONNX Runtime's own, of no common type
            raise ArtifactError(
                f"ONNX Runtime {self._runtime.__version__} refuses `{program.file}`: "
                f"{str(error).splitlines()[0]}; compile in float32, or use another back end"
            ) from error

    def _weight(self, name: str) -> Any:
        weight = self._weights.get(name.replace(".", "__"))
        if weight is None:
            raise ArtifactError(
                f"a program of `{self.package.name}` reads the weight `{name}`, which it does "
                "not have; compile again"
            )
        # On a CPU ONNX Runtime reads where the tensor stands, which `_weights` keeps alive.
        values = self._runtime.OrtValue
        if weight.dtype == torch.bfloat16:
            bits = weight.cpu().view(torch.int16).numpy()
            return values.ortvalue_from_numpy_with_onnx_type(bits, _TYPES[torch.bfloat16])
        return values.ortvalue_from_numpy(weight.cpu().numpy())

    def _providers(self) -> list[Any]:
        provider = _PROVIDERS[self._device.type]
        if self._device.type == "cpu":
            return [provider]
        # On the stream of torch, whose tensors are read and written.
        stream = torch.cuda.current_stream(self._device).cuda_stream
        number = self._device.index or 0
        return [(provider, {"device_id": number, "user_compute_stream": str(stream)})]


class OnnxSession:
    """One program, loaded.

    Args:
        program: What it takes and gives.
        session: Of ONNX Runtime.
        device: Where its inputs must be.
        spec: Of the denoiser.
    """

    def __init__(
        self, program: ExportedProgram, session: Any, device: torch.device, spec: Any
    ) -> None:
        self._session = session
        self._device = device
        self._checked = CheckedInputs(program.takes, device, spec)
        self._names = list(program.takes)
        self._caches = program.caches
        count = len(program.gives) - len(program.caches)
        self._results = list(program.gives.items())[:count]
        self._in_place = True

    def settle(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> None:
        """See whether caches can be written in place, as ONNX Runtime does and does not promise.

        Args:
            plan: A small one.
            inputs: For it.
        """
        generator = torch.Generator().manual_seed(0)
        given = dict(inputs)
        for name in self._caches:
            drawn = torch.randn(given[name].shape, generator=generator)
            given[name] = drawn.to(given[name])
        found = []
        for in_place in (True, False):
            self._in_place = in_place
            tried = {name: tensor.clone() for name, tensor in given.items()}
            found.append([*self(plan, tried), *(tried[name] for name in self._caches)])
        self._in_place = all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    @property
    def in_place(self) -> bool:
        """Whether caches are written in place; if not, they are copied back after each step."""
        return self._in_place

    def __call__(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        """Results of the step; caches among `inputs` are changed in place.

        Raises:
            PlanError: An input is not as the plan says.
        """
        given = dict(zip(self._names, self._checked(plan, inputs), strict=True))
        named = sizes_by_name(plan)
        results = [self._empty(output, named) for _, output in self._results]
        binding = self._session.io_binding()
        for name, tensor in given.items():
            self._bind(binding.bind_input, name, tensor)
        for (name, _), tensor in zip(self._results, results, strict=True):
            self._bind(binding.bind_output, name, tensor)
        written = {name: given[name] for name in self._caches}
        if not self._in_place:
            written = {name: torch.empty_like(cache) for name, cache in written.items()}
        for name, cache in written.items():
            self._bind(binding.bind_output, f"present_{name}", cache)
        self._session.run_with_iobinding(binding)
        if not self._in_place:
            for name, cache in written.items():
                given[name].copy_(cache)
        return tuple(results)

    def _empty(self, output: Input, named: Mapping[str, int]) -> Tensor:
        sizes = [named[size] if isinstance(size, str) else size for size in output.sizes]
        return torch.empty(sizes, dtype=getattr(torch, output.dtype), device=self._device)

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        shape: Sequence[int] = tensor.shape
        number = tensor.device.index or 0
        bind(name, tensor.device.type, number, _TYPES[tensor.dtype], shape, tensor.data_ptr())


def _runtime(device: torch.device) -> Any:
    """The module `onnxruntime`.

    Raises:
        UsageError: It is not installed, or not for `device`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"back end `onnxruntime` needs a package that cannot be imported ({error}); "
            "pip install 'dllmc[onnx]'"
        ) from None
    provider = _PROVIDERS[device.type]
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(
            f"the installed ONNX Runtime has no {provider}; for a GPU pip install onnxruntime-gpu"
        )
    return onnxruntime
