"""The contract of a pass: a typed frozen configuration in, a rewritten graph and a result out."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from dllmc.spec import DenoiserSpec, PassError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule


class Stage(IntEnum):
    """When a pass runs. `VARIANT` passes make further graphs out of the finished one."""

    CANONICALISE = 1
    POSITIONALISE = 2
    SPECIALISE = 3
    CACHE = 4
    VARIANT = 5
    LOWER = 6


class PassConfig(BaseModel):
    """Options of a pass; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a pass may know beside the graph.

    Attributes:
        spec: The denoiser's.
        layers: Attention calls of the captured graph.
        expected: How often a pass must match, by its name, where the model says so.
    """

    spec: DenoiserSpec
    layers: int
    expected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did.

    Attributes:
        name: Of the pass.
        matched: Sites rewritten.
        expected: Sites that the model must have; None where the model does not say.
        skipped_because: Why nothing was done, or None.
        seconds: Wall time.
        nodes_before: Nodes of the graph before.
        nodes_after: Nodes of the graph after.
    """

    name: str
    matched: int
    expected: int | None
    skipped_because: str | None
    seconds: float
    nodes_before: int
    nodes_after: int


class GraphPass(ABC):
    """Rewrites a graph without changing what it computes, unless it is `lossy`.

    A subclass is one file named after its pass; its docstring shows the graph before and after.

    Attributes:
        name: Of the pass and of its file.
        stage: When it runs.
        after: Passes of the same stage that must have run before.
        config_type: Its options.
        optional: Whether the rest works without it, so that it may be disabled.
        lossy: Whether it changes what the graph computes: a choice that is named, recorded, and
            enabled by nobody but who asks for it.
        variant: For a pass of stage `VARIANT`, the statistics set of the graph it makes.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    after: ClassVar[tuple[str, ...]] = ()
    config_type: ClassVar[type[PassConfig]] = PassConfig
    optional: ClassVar[bool] = False
    lossy: ClassVar[bool] = False
    variant: ClassVar[str] = ""

    def __init__(self, config: PassConfig | None = None) -> None:
        self.config = config or self.config_type()

    @abstractmethod
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        """Change `module.graph` in place and return the number of sites rewritten."""

    def lose(self, module: GraphModule) -> None:
        """Of a lossy pass: change `module` to compute what it will after `rewrite`.

        As plainly as can be: it is what the rewritten graph is verified against.
        """
        raise NotImplementedError(f"pass `{self.name}` does not say what it loses")

    def expected(self, context: PassContext) -> int | None:
        """How many sites there must be, or None where only the model knows."""
        return context.expected.get(self.name)

    def run(self, module: GraphModule, context: PassContext) -> PassResult:
        """Rewrite `module`, check it, and report.

        Raises:
            PassError: Fewer sites matched than the model must have, or more.
        """
        begun, before = time.perf_counter(), len(module.graph.nodes)
        if not self.config.enabled:
            return PassResult(self.name, 0, None, "disabled", 0.0, before, before)
        matched = self.rewrite(module, context)
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
        expected = self.expected(context)
        if expected is not None and matched != expected:
            remedy = "the model's code or torch.export spells this differently, add the spelling"
            if matched > expected:
                remedy = "it takes something else for its pattern, make it stricter"
            raise PassError(
                f"pass `{self.name}` matched {matched} sites where the model has {expected}; "
                f"{remedy}"
            )
        skipped = None if matched else "nothing to match"
        seconds = time.perf_counter() - begun
        return PassResult(
            self.name, matched, expected, skipped, seconds, before, len(module.graph.nodes)
        )
