"""The axes that come after a commit: verification, stopping, constraints, revision."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch

from dllmc.policies._base import Policy
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

    from dllmc.policies._memory import Memory
    from dllmc.policies.constrain._automaton import TokenAutomaton
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Verify(Policy):
    """How drafts are verified before they commit.

    This class is the policy that verifies nothing; members override what differs.

    Attributes:
        auxiliary: Whether an autoregressive model is asked, and when: in every `step`, about the
            candidates, or about every `block` that is finished.
    """

    axis: ClassVar[str] = "verify"
    auxiliary: ClassVar[Literal["step", "block"] | None] = None

    def check_model(self, spec: DenoiserSpec) -> None:
        if self.auxiliary is not None and spec.attention != "full":
            raise ConfigError(
                f"`verify.kind`={self.kind!r} is for denoisers with full attention, and this "
                f"one's is {spec.attention!r}; use `verify.kind`='none'"
            )

    @property
    def lanes(self) -> int:
        """Canvases that are evaluated at once at most: the present one, and with drafts."""
        return 1

    @property
    def passes(self) -> int:
        """Decisions after each evaluation that a layer on its hidden states is asked for."""
        return 0

    @property
    def tree(self) -> bool:
        """Whether the canvases stand in one row, in scratch slots of their own."""
        return False

    def draft(self, rows: Rows) -> Rows:
        """`rows` with what is remembered of them for drafts."""
        return rows

    def accept(self, rows: Rows, committed: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """What commits after all, `[N, L]` bool.

        Args:
            rows: Of the evaluation; `rows.extra["auxiliary"]` `[N, L, V]` are what the auxiliary
                model says of each position after the candidates before it, if it is asked.
            committed: `[N, L]` bool, what the commit policy selected.
            values: Knobs by name, `[N]`.
        """
        del rows, values
        return committed

    def accept_oracle(
        self, rows: Sequence[Prediction], committed: set[int], said: Sequence[NDArray[np.float64]]
    ) -> set[int]:
        """The same for one decision, as positions.

        Args:
            rows: Eligible, in order of position.
            committed: What the commit policy selected.
            said: What the auxiliary model says of each.
        """
        del rows, said
        return committed


class Stop(Policy):
    """When a row is finished before its canvas is full.

    Attributes:
        cuts: Whether the response ends at its first end-of-sequence token.
    """

    axis: ClassVar[str] = "stop"
    cuts: ClassVar[bool] = False

    @abstractmethod
    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        """`[B]` bool: rows of `response` `[B, T]` that need no more evaluation."""

    @abstractmethod
    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        """The same for one row."""

    def fills(self, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Rows, Tensor | None]:
        """`rows` with new memory, and `[N]` bool: decisions whose eligible rows all commit now."""
        del values
        return rows, None

    def fills_oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> bool:
        """The same for one decision."""
        del rows, progress, memory
        return False

    def cut(
        self, rows: Rows, committed: Tensor, eos_ids: Tensor, values: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Canvas position before which each response now ends, `[N]` int64; large for not at all.

        Args:
            rows: Of the evaluation.
            committed: `[N, L]` bool, those that commit.
            eos_ids: End-of-sequence tokens.
            values: Knobs by name, `[N]`.
        """
        del rows, committed, eos_ids, values
        return None

    def cut_oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        eos_ids: Sequence[int],
        progress: BlockProgress,
    ) -> int | None:
        """The same for one decision; `committed` are positions."""
        del rows, committed, eos_ids, progress
        return None


class Constrain(Policy):
    """What the output must match.

    This class is the policy that allows everything; members override what differs.

    Attributes:
        free: Whether it allows everything.
    """

    axis: ClassVar[str] = "constrain"
    free: ClassVar[bool] = True

    def automaton(self, tokenizer: Tokenizer, spec: DenoiserSpec) -> TokenAutomaton:
        """The responses of a model that are allowed.

        Raises:
            ConfigError: There is none, or the tokenizer cannot be read.
        """
        raise NotImplementedError

    def candidates(
        self, rows: Rows, values: Mapping[str, Tensor], automaton: TokenAutomaton
    ) -> Rows:
        """`rows` with candidates that are allowed, and the tail masses of those.

        Args:
            rows: Of the evaluation, with all their logits.
            values: `[N]` int64: `state` of the automaton before the rows, the `end` of the
                response on the canvas, and how many positions are `remaining` after the rows.
            automaton: Of all decisions.
        """
        raise NotImplementedError

    def candidates_oracle(
        self,
        rows: Sequence[Prediction],
        state: int,
        remaining: int,
        end: int,
        automaton: TokenAutomaton,
    ) -> list[Prediction]:
        """The same for one decision."""
        raise NotImplementedError


class Revision(NamedTuple):
    """What happens to committed rows, `[N, L]` bool each: their candidate, or the mask again."""

    replaced: Tensor
    reopened: Tensor


class Revise(Policy):
    """Whether committed tokens may be taken back or replaced.

    This class is the policy that never does; members override what differs.

    Attributes:
        reopens: Whether it may mask committed tokens again.
    """

    axis: ClassVar[str] = "revise"
    reopens: ClassVar[bool] = False

    def select(
        self, rows: Rows, committed: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Rows, Revision]:
        """`rows` with new memory, and what happens to those committed before.

        Args:
            rows: Of the evaluation.
            committed: `[N, L]` bool, those that commit now.
            values: Knobs by name, `[N]`.
        """
        del values
        nothing = torch.zeros_like(committed)
        return rows, Revision(nothing, nothing)

    def oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        progress: BlockProgress,
        memory: Memory,
    ) -> tuple[set[int], set[int]]:
        """The same for one decision, as positions: replaced, and masked again.

        Args:
            rows: All that were offered.
            committed: Positions that commit now.
            progress: Of the block.
            memory: Of this policy.
        """
        del rows, committed, progress, memory
        return set(), set()

    def settled(self, masks: int, revised: int, unmasked_steps: int) -> bool:
        """Whether a block without masks is finished.

        Args:
            masks: Masked positions of the block before the last evaluation.
            revised: Tokens that the last evaluation replaced.
            unmasked_steps: Evaluations that the block has had without masks.
        """
        del masks, revised, unmasked_steps
        return True
