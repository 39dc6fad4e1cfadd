"""Inputs of programs that check nothing themselves, checked before they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.runtime.programs.base import SIZES, sizes_of
from dllmc.spec import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.artifact.binaries import Input
    from dllmc.spec import DenoiserSpec, StepPlan


class CheckedInputs:
    """What a program takes.

    Args:
        takes: By name.
        device: Where its inputs must be.
        spec: Of the denoiser.
    """

    def __init__(self, takes: Mapping[str, Input], device: torch.device, spec: DenoiserSpec):
        self._device_type = device.type
        self._spec = spec
        self._takes = [
            (name, getattr(torch, take.dtype), take.sizes) for name, take in takes.items()
        ]

    def __len__(self) -> int:
        return len(self._takes)

    def __call__(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Those of `inputs` that the program takes, in its order, contiguous.

        Raises:
            PlanError: One is not as the plan says, or holds what the model does not know.
        """
        named = sizes_by_name(plan)
        found = []
        for name, dtype, sizes in self._takes:
            tensor = inputs[name]
            expected = [named[size] if isinstance(size, str) else size for size in sizes]
            if (
                list(tensor.shape) != expected
                or tensor.dtype != dtype
                or tensor.device.type != self._device_type
            ):
                raise PlanError(
                    f"input `{name}` is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, "
                    f"and plan `{plan.key}` takes {dtype} {expected} on {self._device_type}"
                )
            found.append(tensor if tensor.is_contiguous() else _dense(name, tensor))
        # On a GPU it would wait for the device, and kernels check indices themselves.
        if self._device_type == "cpu":
            self._check_ranges(plan, inputs)
        return found

    def _check_ranges(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> None:
        _, rows, _, slots = sizes_of(plan)
        ends = {
            "tokens": self._spec.vocab_size,
            "positions": self._spec.max_length,
            "slots": slots,
            "head_rows": rows,
            "gather_ids": self._spec.vocab_size,
            "mixture_ids": self._spec.vocab_size,
        }
        for name, _, _ in self._takes:
            if name not in ends or not inputs[name].numel():
                continue
            least, most = inputs[name].aminmax()
            if least < 0 or most >= ends[name]:
                wrong = least if least < 0 else most
                raise PlanError(
                    f"input `{name}` holds {int(wrong)}, and must hold 0 to {ends[name] - 1}"
                )


def sizes_by_name(plan: StepPlan) -> dict[str, int]:
    """Sizes of a step as `Input.sizes` names them."""
    return dict(zip(map(str, SIZES), sizes_of(plan), strict=True))


def _dense(name: str, tensor: Tensor) -> Tensor:
    # What is changed in place would be changed in the copy only.
    if name.startswith(("keys_", "values_")):
        raise PlanError(f"input `{name}` has strides {tensor.stride()}; it must be contiguous")
    return tensor.contiguous()
