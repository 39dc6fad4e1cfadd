"""What the output must match."""

from dllmc.policies.constrain._automaton import TokenAutomaton, check_length
from dllmc.policies.constrain._oracle import advance_oracle

__all__ = ["TokenAutomaton", "advance_oracle", "check_length"]
