"""When a stride is taken, how long it is, and what runs it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dllmc.runtime.captured_stride import CapturedStrides
from dllmc.runtime.foresight import foresees
from dllmc.runtime.programs import CapturedPrograms
from dllmc.runtime.stride import lay_out_stride, run_stride, tell_stride, useful_steps
from dllmc.runtime.transfer import to_device, to_host
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs, Selects
    from dllmc.runtime.state import DecodeState
    from dllmc.runtime.stride import Results, Stride
    from dllmc.spec import DenoiserSpec

# Steps between two looks of the host, on a GPU: it waits for none of the others.
_LOOK_EVERY = 8
# Tokens per step of a configuration that was not decoded with before.
_PACE = 2.0


class Strides:
    """Takes strides where the host foresees several steps.

    Args:
        spec: Of the denoiser.
        dtype: Of its steps.
        device: Where they run.
        selects: That decide.
        look_every: Steps of a stride at most; None is 8 on a GPU and 1 elsewhere.

    Attributes:
        look_every: Steps of a stride at most.
        graphs: Of strides, once one was taken of captured programs.

    Raises:
        UsageError: `look_every` is less than 1.
    """

    def __init__(
        self,
        spec: DenoiserSpec,
        dtype: str,
        device: torch.device,
        selects: Selects,
        look_every: int | None,
    ) -> None:
        usual = _LOOK_EVERY if device.type == "cuda" else 1
        self.look_every = usual if look_every is None else look_every
        if self.look_every < 1:
            raise UsageError(f"`look_every`={look_every} must be at least 1")
        self.graphs: CapturedStrides | None = None
        self._spec, self._dtype, self._selects = spec, dtype, selects
        self._pace: tuple[DecodingConfig | None, float] = None, _PACE

    def take(self, programs: Programs, pool: Pool, group: list[DecodeState]) -> bool:
        """Take a stride of `group` if it has more than one step; else do nothing."""
        config, pace = self._pace
        usual = pace if group[0].config == config else _PACE
        most = useful_steps(group, self.look_every, usual)
        if most == 1 or not all(map(foresees, group)):
            return False
        stride = lay_out_stride(programs, self._spec, pool, group, self._dtype, most)
        if len(stride.steps) == 1:
            return False
        begun = time.perf_counter()
        tensors = to_device(stride.tensors, pool.canvas.device)
        results = to_host(self._run(programs, pool, stride, tensors))
        tell_stride(stride, results, (time.perf_counter() - begun) / len(stride.steps))
        return True

    def _run(
        self, programs: Programs, pool: Pool, stride: Stride, tensors: Mapping[str, Tensor]
    ) -> Results:
        if not isinstance(programs, CapturedPrograms):
            return run_stride(programs, self._spec, pool, stride, tensors, self._selects)
        if self.graphs is None or self.graphs.programs is not programs:
            self.graphs = CapturedStrides(programs)
        return self.graphs.run(self._spec, pool, stride, tensors, self._selects)

    def remember(self, config: DecodingConfig, states: Sequence[DecodeState]) -> None:
        """How many tokens per step `states` were decoded with: so far the next should go."""
        decided = sum(state.length - state.response_start for state in states)
        self._pace = config, decided / max(1, sum(state.draws for state in states))
