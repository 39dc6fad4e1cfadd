"""Graph passes, one per file."""

from dllmc.passes._base import GraphPass, PassConfig, PassContext, PassResult, Stage
from dllmc.passes._registry import ordered, pass_types

__all__ = [
    "GraphPass",
    "PassConfig",
    "PassContext",
    "PassResult",
    "Stage",
    "ordered",
    "pass_types",
]
