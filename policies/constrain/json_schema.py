"""Output is JSON of a schema, by DINGO (arXiv 2505.23061)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, Self

from pydantic import field_validator, model_validator

from dllmc.policies.constrain._automaton import TokenAutomaton, token_automaton
from dllmc.policies.constrain._by_automaton import ByAutomaton
from dllmc.policies.constrain._bytes import text_machine

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dllmc.spec import DenoiserSpec


class JsonSchemaConstraint(ByAutomaton):
    """The text is JSON that the schema allows, with its properties in the schema's order.

    Attributes:
        json_schema: A JSON schema, as text or as a mapping; kept as text, for the order of its
            properties is part of it. Objects and arrays of no stated content nest two deep in it.
        whitespace: A regular expression for the white space between the parts; None is that of
            outlines-core, one space at most.
    """

    kind: Literal["json_schema"] = "json_schema"
    json_schema: str = '{"type":"object"}'
    whitespace: str | None = None

    @field_validator("json_schema", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> str:
        parsed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(parsed, dict):
            raise ValueError("a JSON schema is an object: give a mapping, or its JSON text")
        return json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        try:
            text_machine(self.pattern)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"`json_schema`={self.json_schema} with `whitespace`={self.whitespace!r} cannot "
                f"be used: {reason}; simplify the schema"
            ) from None
        return self

    @property
    def pattern(self) -> str:
        """The regular expression of the same texts."""
        from outlines_core.json_schema import build_regex_from_schema

        return str(build_regex_from_schema(self.json_schema, self.whitespace))

    def automaton(self, tokenizer: Tokenizer, spec: DenoiserSpec) -> TokenAutomaton:
        """The responses of a model that the schema allows."""
        return token_automaton(self.pattern, tokenizer, spec)
