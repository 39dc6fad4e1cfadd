"""Names under which a checkpoint was published, for the facts that no key of it states."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def published_names(folder: Path) -> list[str]:
    """The folder's name; in a download cache that is a hash, and two above is the repository's.

    Links count under their own name and under that of what they lead to.
    """
    places = dict.fromkeys((folder.absolute(), folder.resolve()))
    above = [parent for place in places for parent in place.parents[1:2]]
    return [
        *(place.name for place in places),
        *(path.name.rpartition("--")[2] for path in above if path.name.startswith("models--")),
    ]
