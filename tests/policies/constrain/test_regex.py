from __future__ import annotations

import pytest
from constrained.vocabularies import of_pieces

from dllmc.policies._registry import parse
from dllmc.policies.constrain._automaton import token_automaton
from dllmc.policies.constrain.regex import RegexConstraint
from dllmc.spec import ConfigError


def test_it_allows_any_text_by_default() -> None:
    tokenizer, spec = of_pieces("a", "\n", "é")
    automaton = RegexConstraint().automaton(tokenizer, spec)
    assert automaton.shortest == 0
    assert (automaton.classes[3:6] > 0).all()


def test_its_automaton_is_that_of_its_pattern() -> None:
    tokenizer, spec = of_pieces("a", "b")
    policy = RegexConstraint(pattern="ab|ba")
    assert policy.automaton(tokenizer, spec) is token_automaton("ab|ba", tokenizer, spec)
    assert policy.automaton(tokenizer, spec).shortest == 2


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "a)(b",
        "[z-a]",
        "a{2",
        "a(?=b)",
        r"(a)\1",
        "^a$",
        "a$",
        r"\ba",
        "*a",
        "[a&&b]",
        "(?P<x>a)(?P=x)",
    ],
)
def test_a_pattern_beyond_finite_automata_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="check the syntax, and leave out `") as refused:
        RegexConstraint(pattern=pattern)
    assert str(refused.value).startswith(f"`pattern`={pattern!r}: ")


@pytest.mark.parametrize("pattern", [" ", "a ", r" a|\nb"])
def test_a_pattern_of_nothing_that_output_can_be_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="only texts with white space around them, if any"):
        RegexConstraint(pattern=pattern)


def test_matches_with_white_space_around_them_are_left_out() -> None:
    automaton = RegexConstraint(pattern=" *a? *").automaton(*of_pieces("a", " "))
    assert automaton.shortest == 0
    assert automaton.dead == 4  # the start, a space before, the text, the end


def test_it_is_made_from_json_and_has_nothing_to_tune() -> None:
    policy = parse("constrain", {"kind": "regex", "pattern": "[0-9]+"})
    assert policy == RegexConstraint(pattern="[0-9]+")
    assert parse("constrain", policy.model_dump(mode="json")) == policy
    assert hash(policy) == hash(RegexConstraint(pattern="[0-9]+"))
    assert policy.knobs() == {}
