"""Put an implementation in place of every canonical operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from dllmc.kernels import canonical, canonical_names, implementation, implementations
from dllmc.passes._base import GraphPass, PassConfig, PassContext, Stage
from dllmc.passes._graph import aten, calls
from dllmc.spec import PassError, nearest

if TYPE_CHECKING:
    from torch.fx import GraphModule


class LowerOperatorsConfig(PassConfig):
    """Which implementation to take.

    Attributes:
        implementations: By operator, e.g. `{"rms_norm": "torch"}`; `torch` for those left out.
    """

    implementations: dict[str, str] = Field(default_factory=dict)


class LowerOperators(GraphPass):
    """Before: `dllmc.rms_norm`. After: `dllmc.rms_norm.torch`, or another implementation.

    `aten.linear` is its own canonical spelling and becomes `dllmc.linear.torch` or another.

    Raises:
        PassError: An operator or implementation is unknown.
    """

    name = "lower_operators"
    stage = Stage.LOWER
    config_type = LowerOperatorsConfig

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        assert isinstance(self.config, LowerOperatorsConfig)
        chosen = self.config.implementations
        for name in chosen:
            if name not in canonical_names():
                raise PassError(f"no operator `{name}`; {nearest(name, canonical_names())}")
        lowered = 0
        for site in calls(module, aten.linear.default):
            site.target = canonical("linear")
            site.args = (*site.args, None)[:3]
        for name in canonical_names():
            which = chosen.get(name, "torch")
            if which not in implementations(name):
                hint = nearest(which, implementations(name))
                raise PassError(f"operator `{name}` has no implementation `{which}`; {hint}")
            for node in calls(module, canonical(name)):
                node.target = implementation(name, which)
                lowered += 1
        return lowered
