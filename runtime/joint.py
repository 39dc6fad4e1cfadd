"""The joint samplers that are asked between evaluations: programs of one layer and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.artifact import joint_package
from dllmc.policies.verify._joint_layer import NAMES, load_layer
from dllmc.policies.verify.joint_sampler import JointSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.policies.verify._joint_layer import JointLayer
    from dllmc.runtime.inputs import Group
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs
    from dllmc.runtime.state import DecodeState


class JointSamplers:
    """Programs by the file of the layer, made when first asked for.

    Args:
        package: Of the denoiser.
        programs_of: Makes the programs of a package.
    """

    def __init__(self, package: Package, programs_of: Callable[[Package], Programs]) -> None:
        self._package, self._programs_of = package, programs_of
        self._programs: dict[str, tuple[JointLayer, Programs]] = {}

    def programs(self, state: DecodeState) -> Programs:
        """What runs the passes of `state`.

        Raises:
            ConfigError: Its layer does not fit the model.
        """
        verify = state.config.verify
        assert isinstance(verify, JointSampler)
        path, layer = verify.path, load_layer(verify.path)
        # Another layer is loaded where the file was written anew.
        if path not in self._programs or self._programs[path][0] is not layer:
            weights = [layer.weights[name] for name in NAMES]
            package = joint_package(self._package, weights, layer.heads, layer.theta)
            self._programs[path] = layer, self._programs_of(package)
        return self._programs[path][1]

    def check(self, state: DecodeState) -> None:
        """Raise `ConfigError` if the passes of `state` cannot run."""
        if state.config.verify.passes:
            self.programs(state)


def joint_inputs(pool: Pool, group: Group) -> Mapping[str, Tensor]:
    """What a pass is given beside what every step is."""
    memory = pool.recall(group.states[0], group.rows, group.head)
    return {"hidden": memory["verify.hidden"], "offered": group.offered}
