"""Run steps in TensorRT engines. Not run on a GPU yet: tests run it against a stand-in."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

from dllmc.runtime.programs._checked import CheckedInputs, sizes_by_name
from dllmc.runtime.programs.base import Programs, Statistics
from dllmc.spec import ArtifactError, PlanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.artifact.engines import EngineProgram, Engines
    from dllmc.spec import DenoiserSpec, StepPlan


class TensorRTPrograms(Programs):
    """The TensorRT engines of a package.

    Args:
        package: With engines.
        device: The GPU that they run on.

    Raises:
        ArtifactError: They are for another GPU or another TensorRT.
        UsageError: There are none, it is no GPU, or TensorRT is not installed.
    """

    execution = "tensorrt"

    def __init__(self, package: Package, device: torch.device) -> None:
        super().__init__(package)
        if package.engines is None:
            raise UsageError(
                f"`{package.name}` holds no TensorRT engines; make them with `dllmc compile MODEL "
                "-o ARTIFACT --backend tensorrt --device cuda`, or use another back end"
            )
        require_gpu(device)
        self._engines: Engines = package.engines
        self._device = device
        self._trt = import_tensorrt()
        self._check_target(architecture_of(device))
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._logger)
        self._known = {program.kind: program for program in self._engines.listing.programs}
        self._loaded: dict[tuple[object, ...], LoadedEngine] = {}
        # An execution context serves one thread at a time.
        self._running = threading.Lock()

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        kind = plan.statistics, plan.mask, plan.inputs, plan.saliency
        with self._running:
            if kind not in self._loaded:
                self._loaded[kind] = self._load(kind, plan)
            return self._loaded[kind](plan, inputs)

    def _load(self, kind: tuple[object, ...], plan: StepPlan) -> LoadedEngine:
        program = self._known.get(kind)
        if program is None:
            raise PlanError(
                f"`{self.package.name}` has no TensorRT engine for plan `{plan.key}`; add it with "
                "`dllmc compile ARTIFACT --add-plan CONFIG`, the configuration that asks for it"
            )
        content = self._engines.files[program.file].read_bytes()
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ArtifactError(
                f"TensorRT {self._trt.__version__} refuses `{program.file}`; compile again"
            )
        return LoadedEngine(self._trt, engine, program, self._device, self.package.spec)

    def fit(self, plan: StepPlan) -> StepPlan:
        """`plan`, if its sizes are in the profile.

        Raises:
            PlanError: One is not.
        """
        for name, size in sizes_by_name(plan).items():
            known = self._engines.listing.sizes[name]
            if size > known.most:
                raise PlanError(
                    f"plan `{plan.key}` has `{name}`={size}, and the engines of "
                    f"`{self.package.name}` take {known.least} to {known.most}; decode fewer or "
                    "shorter prompts at a time"
                )
        return plan

    def _check_target(self, architecture: str) -> None:
        listing = self._engines.listing
        reason = None
        if listing.architecture != architecture:
            reason = f"are for {listing.architecture}, and this GPU is {architecture}"
        elif listing.tensorrt != self._trt.__version__:
            reason = f"are of TensorRT {listing.tensorrt}, and this is {self._trt.__version__}"
        if reason is not None:
            raise ArtifactError(
                f"the TensorRT engines of `{self.package.name}` {reason}; compile again here, or "
                "decode with another back end"
            )


class LoadedEngine:
    """One engine, ready to run.

    Args:
        trt: The module `tensorrt`.
        engine: Deserialised.
        program: What it takes and gives.
        device: Where its inputs must be.
        spec: Of the denoiser.

    Raises:
        ArtifactError: The engine takes or gives something else.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        program: EngineProgram,
        device: torch.device,
        spec: DenoiserSpec,
    ) -> None:
        self._context = engine.create_execution_context()
        self._program = program
        self._device = device
        self._checked = CheckedInputs(program.takes, device, spec)
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        goes_in = trt.TensorIOMode.INPUT
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == goes_in]
        self._outputs = [name for name in names if engine.get_tensor_mode(name) != goes_in]
        if (len(self._inputs), len(self._outputs)) != (len(program.takes), len(program.gives)):
            raise ArtifactError(f"`{program.file}` is not the engine listed; compile again")

    def __call__(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        """Results of the step; caches among `inputs` are changed in place.

        Raises:
            PlanError: An input is not as the plan says.
        """
        given = self._checked(plan, inputs)
        named = sizes_by_name(plan)
        for name, tensor in zip(self._inputs, given, strict=True):
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        made = []
        for name, output in zip(self._outputs, self._program.gives, strict=True):
            sizes = [named[size] if isinstance(size, str) else size for size in output.sizes]
            made.append(
                torch.empty(sizes, dtype=getattr(torch, output.dtype), device=self._device)
            )
            self._context.set_tensor_address(name, made[-1].data_ptr())
        if not self._context.execute_async_v3(current_stream(self._device)):
            raise PlanError(f"TensorRT could not run plan `{plan.key}`; its log says why")
        # An engine may read a cache after it has written its successor: not one buffer for both.
        count = len(made) - len(self._program.caches)
        for name, cache in zip(self._program.caches, made[count:], strict=True):
            inputs[name].copy_(cache)
        return tuple(made[:count])


def require_gpu(device: torch.device) -> None:
    """See that `device` can run TensorRT engines.

    Raises:
        UsageError: It is no NVIDIA GPU.
    """
    if device.type != "cuda":
        raise UsageError(
            f"TensorRT engines are built and run on an NVIDIA GPU, and this is `{device}`; give "
            "device='cuda' (--device cuda), or use another back end"
        )


def import_tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        UsageError: It cannot be imported.
    """
    try:
        import tensorrt
    except Exception as error:  # libraries that are missing raise what they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"back end `tensorrt` needs a package that cannot be imported ({reason}); "
            "pip install 'dllmc[tensorrt]' where NVIDIA's package index can be reached"
        ) from None
    return tensorrt


def architecture_of(device: torch.device) -> str:
    """As in `sm_90`."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def current_stream(device: torch.device) -> int:
    """Handle of the stream of torch."""
    return int(torch.cuda.current_stream(device).cuda_stream)
