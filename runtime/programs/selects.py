"""Select programs: `decide`, compiled for the configurations that ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dllmc.runtime.select import Decisions, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.constrain import TokenAutomaton
    from dllmc.policies.rows import Rows
    from dllmc.runtime.select import Values
    from dllmc.runtime.state import DecodeState


class Selects:
    """Decides, by a compiled program where one was asked for.

    A program is compiled when it is first needed, which takes seconds; so only for the structures
    given to `want`. One serves all values of knobs, any number of decisions over 1, and any number
    of rows; one decision alone has a program of its own.

    Attributes:
        compiled: Programs that run.
        left: Structures whose program would have held for some sizes only, decided without one.
    """

    def __init__(self) -> None:
        self._wanted: set[tuple[object, ...]] = set()
        self._programs: dict[Any, Callable[..., Decisions] | None] = {}

    def want(self, config: DecodingConfig, wanted: bool = True) -> None:
        """Compile what decodes like `config` when it is next decoded; or decide it without."""
        (self._wanted.add if wanted else self._wanted.discard)(config.structure)

    def wants(self, state: DecodeState) -> bool:
        """Whether what decodes like `state` is decided by a program."""
        return state.structure in self._wanted

    @property
    def compiled(self) -> int:
        return sum(program is not None for program in self._programs.values())

    @property
    def left(self) -> int:
        return sum(program is None for program in self._programs.values())

    def decide(
        self,
        state: DecodeState,
        rows: Rows,
        values: Values,
        eos_ids: Tensor,
        automaton: TokenAutomaton | None,
    ) -> Decisions:
        """As `decide`, for decisions that share the structure of `state`."""
        # An automaton is as many tensors of sizes of their own, and its program walks positions.
        if automaton is not None or state.structure not in self._wanted:
            return decide(state.config, rows, values, eos_ids, automaton)
        key = state.structure, len(rows.ids) == 1, rows.temperature is None
        if key not in self._programs:
            # Importing Inductor takes seconds, which a process that runs eagerly need not wait.
            from dllmc.runtime.programs._compile_select import compile_select

            sequence = [n for n, entry in state.remembered.items() if entry.per == "sequence"]
            self._programs[key] = compile_select(state.config, rows, values, eos_ids, sequence)
        program = self._programs[key]
        if program is None or rows.ids.shape[1] == 1:
            return decide(state.config, rows, values, eos_ids)
        return program(rows, values, eos_ids)
