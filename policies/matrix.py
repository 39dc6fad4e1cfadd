"""Which policies go together, as a page: `python -m dllmc.policies.matrix [docs/composition.md]`.

The page follows from what the policies declare, so that a new one only has to be written again.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from dllmc.policies._exclusions import condition, every_kind, exclusions, pairs
from dllmc.policies._faces import alternatives, faces, usual

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dllmc.policies._exclusions import Exclusion

_INTRODUCTION = """\
# Which policies go together

Written by `python -m dllmc.policies.matrix docs/composition.md` from what the policies declare of
themselves; [Decoding](decoding.md) says what each of them does.

A configuration has one policy per axis. Of {pairs:,} pairs of the {kinds} kinds on different axes
{never} never go together, and {sometimes} depend on how the two are configured. A configuration
with such a pair is refused, with the reason that stands here. Some kinds are for some models only,
which is said when a model is decoded.
"""
_MARKS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def document() -> str:
    """The page."""
    found = exclusions()
    never = sum(not each.condition for each in found)
    head = _INTRODUCTION.format(
        pairs=sum(1 for _ in pairs()),
        kinds=len(every_kind()),
        never=never,
        sometimes=len(found) - never,
    )
    parts = _excluded(found), _reasons(found), _temperature(), _statistics()
    return "\n".join((head, *(line for part in parts for line in (*part, ""))))


def _excluded(found: Sequence[Exclusion]) -> Iterator[str]:
    """The kinds that each kind does not go with."""
    marks: dict[str, str] = {"": ""}
    partners: dict[str, list[str]] = {name: [] for name in every_kind()}
    for each in found:
        mark = marks.setdefault(each.condition, f" {len(marks)}".translate(_MARKS))
        partners[each.by].append(f"`{each.of}`{mark}")
        partners[each.of].append(f"`{each.by}`{mark}")
    yield from ("## What does not go together", "", "| kind | not with |", "|---|---|")
    for name, others in partners.items():
        if others:
            yield f"| `{name}` | {', '.join(others)} |"
    yield ""
    # Two spaces end a line.
    yield from (f"{mark.strip()} {condition}  " for condition, mark in marks.items() if condition)
    free = (name for name, others in partners.items() if not others)
    yield from ("", f"These go with every kind of the other axes: {_listed(free)}.")


def _reasons(found: Sequence[Exclusion]) -> Iterator[str]:
    """Why, in the words of the kinds that say so; kinds of one axis and one reason together."""
    said: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for each in found:
        said[each.by, each.reason][each.of] = None
    joined: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (by, reason), others in said.items():
        joined[reason, tuple(others)].append(by)
    yield from ("## Why", "", "| kind | says of | this |", "|---|---|---|")
    for (reason, of), speakers in joined.items():
        yield f"| {_listed(speakers)} | {_listed(of)} | {reason} |"


def _temperature() -> Iterator[str]:
    yield from ("## What a temperature over 0 does not go with", "")
    yield from ("| kind | when | because |", "|---|---|---|")
    for name, kind in every_kind().items():
        told = [face.policy.exclusions.get("temperature") for face in faces(kind)]
        clashing = [index for index, reason in enumerate(told) if reason is not None]
        if clashing:
            when = condition(kind, clashing) or "always"
            yield f"| `{name}` | {when} | {told[clashing[0]]} |"


def _statistics() -> Iterator[str]:
    """What each kind needs of an evaluation, and which of its fields say how much."""
    yield from ("## What an evaluation must return", "")
    yield "Candidate, logit and tail mass in any case; and for"
    yield from ("", "| kind | statistics | how many says |", "|---|---|---|")
    for name, kind in every_kind().items():
        policy = usual(kind)
        if policy.needs:
            changed = {
                field: None
                for field, value in alternatives(policy)
                if policy.model_copy(update={field: value}).needs != policy.needs
            }
            yield f"| `{name}` | {_listed(sorted(policy.needs))} | {_listed(changed)} |"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Print the page, or write it to the path that is given."""
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(document(), encoding="utf-8")
    else:
        print(document(), end="")


if __name__ == "__main__":
    main()
