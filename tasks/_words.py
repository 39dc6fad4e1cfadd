"""Words that the generators draw from; each is one token of the embedded model's tokenizer."""

from __future__ import annotations

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
NAMES = tuple(
    "anna bob carl dora emil fred gina hugo iris jack kate leo mia nora omar paul rosa sam tina "
    "uma vera will yara zoe".split()
)
CITIES = tuple(
    "oslo rome lima bonn cairo delhi paris quito riga seoul tokyo turin vienna york zagreb "
    "bergen geneva havana kiel malmo".split()
)
DAYS = tuple("monday tuesday wednesday thursday friday saturday sunday".split())
NOUNS = tuple(
    "cat dog fox owl bear wolf deer frog hare lion mouse horse sheep goat duck crow seal crab "
    "snail whale".split()
)
VERBS = tuple("sees hears finds likes greets follows helps meets calls knows feeds hugs".split())
ADJECTIVES = tuple("red big old shy wild calm tiny grey loud fast".split())
FUNCTION_WORDS = tuple(
    "the a in on dear hello welcome to is free room see you good day for has waits with and "
    "name city age".split()
)

ALL = tuple(dict.fromkeys(NAMES + CITIES + DAYS + NOUNS + VERBS + ADJECTIVES + FUNCTION_WORDS))
