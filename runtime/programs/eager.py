"""Run the graph node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.runtime.programs.base import Programs, Statistics, arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.spec import StepPlan


class EagerPrograms(Programs):
    """No compilation: what compiled programs are compared with."""

    execution = "eager"

    def run(self, plan: StepPlan, inputs: Mapping[str, Tensor]) -> Statistics:
        graph = self.graph(plan)
        with torch.no_grad():
            result: Statistics = graph(*arguments(graph, inputs))
        return result
