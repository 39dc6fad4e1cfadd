"""Output matches a regular expression, by DINGO (arXiv 2505.23061)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from dllmc.policies.constrain._automaton import TokenAutomaton, token_automaton
from dllmc.policies.constrain._by_automaton import ByAutomaton
from dllmc.policies.constrain._bytes import text_machine

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dllmc.spec import DenoiserSpec


class RegexConstraint(ByAutomaton):
    r"""The whole text, stripped, matches `pattern`.

    The syntax is that of Rust's `regex` crate, which most patterns of Python's `re` share; `\w`
    has combining marks too. There are no `^`, `$`, `\b`, look-around and back-references, and NUL
    is in no text.
    """

    kind: Literal["regex"] = "regex"
    pattern: str = "(?s:.*)"

    @field_validator("pattern")
    @classmethod
    def _usable(cls, value: str) -> str:
        text_machine(value)
        return value

    def automaton(self, tokenizer: Tokenizer, spec: DenoiserSpec) -> TokenAutomaton:
        """The responses of a model that match."""
        return token_automaton(self.pattern, tokenizer, spec)
