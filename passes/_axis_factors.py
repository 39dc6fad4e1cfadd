"""Sizes of which two shapes of the same elements are products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def common_factors(
    before: Sequence[Any], after: Sequence[Any], symbols: Sequence[Any]
) -> list[list[Any]] | None:
    """For each axis of `after` the sizes whose product it is, in the order in which they stand.

    All of these in a row are a refinement of `before` too, so that a reshape to them only splits
    axes, and a reshape from them to `after` only merges. Numbers in a row are one number.

    Args:
        before: Sizes as expressions.
        after: Sizes as expressions, of the same product.
        symbols: Batch size and length; all else are numbers.

    Returns:
        The groups, or None where the shapes have no such sizes.
    """
    waiting, groups = list(before), list[list[Any]]()
    for size in after:
        group, left = list[Any](), size
        while left != 1:
            if not waiting:
                return None
            atom = waiting.pop(0)
            if atom == 1:
                continue
            part = _shared(atom, left, symbols)
            if part is None:
                return None
            if atom / part != 1:
                waiting.insert(0, atom / part)
            group, left = _joined(group, part, symbols), left / part
        groups.append(group or [1])
    return groups if all(size == 1 for size in waiting) else None


def _shared(atom: Any, left: Any, symbols: Sequence[Any]) -> Any | None:
    """What both begin with: one of them, which divides the other."""
    for whole, part in ((left, atom), (atom, left)):
        rest = whole / part
        if rest == int(rest) if isinstance(rest, int | float) else _is_size(rest, symbols):
            return part if part in symbols or _is_number(part) else None
    return None


def _is_size(rest: Any, symbols: Sequence[Any]) -> bool:
    if not rest.free_symbols:
        return bool(rest.is_Integer)
    remaining = rest
    for symbol in symbols:
        if symbol in rest.free_symbols:
            remaining = remaining / symbol
    return bool(getattr(remaining, "is_Integer", False))


def _is_number(size: Any) -> bool:
    return not getattr(size, "free_symbols", ())


def _joined(group: list[Any], part: Any, symbols: Sequence[Any]) -> list[Any]:
    if group and part not in symbols and group[-1] not in symbols:
        return [*group[:-1], group[-1] * part]
    return [*group, part]
