"""Published decodes that differ in where blocks end, and in what is evaluated and fed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from golden.case import Case, case_of, config_of

if TYPE_CHECKING:
    from collections.abc import Callable

# Vicinity decodes whose first block is finished as soon as its loop has warmed up. The published
# loop fills its cache at the second block's start, and then takes that block for a new one once
# more: it refreshes twice.
_TWICE = (35, 40)


def _adablock(number: int, told: dict[str, Any]) -> Case:
    """A threshold of null stands for infinity: blocks are fixed."""
    threshold = told["delimiter_threshold"]
    schedule = {
        "kind": "adablock",
        "block_length": told["init_block_length"],
        "threshold": 2 if threshold is None else threshold,
        "lookahead": 0.25,
        "delimiters": told["delimiter_ids"],
    }
    commit = {"kind": "threshold", "threshold": told["threshold"]}
    config = config_of(told["init_block_length"], commit, told["cache"]) | {"schedule": schedule}
    way = f"{told['cache']}, {'fixed' if threshold is None else 'adaptive'}"
    return case_of("adablock", number, told, way=way, config=config)


def _vicinity(number: int, told: dict[str, Any]) -> Case:
    """The published loop evaluates a block again that the filling of the cache has finished."""
    way, config = "refreshed twice", None
    if number not in _TWICE:
        way = "window" if told["prefix_look"] or told["after_look"] else "block"
        commit = {"kind": "threshold", "threshold": told["threshold"]}
        config = config_of(told["block_length"], commit, _window(told))
    return case_of("vicinity", number, told, way=way, config=config, nfe=None)


def _smooth(number: int, told: dict[str, Any]) -> Case:
    """The published loop smooths later blocks too, so that only a single block is the same.

    The predictions of all 95 tokens are mixed, as there.
    """
    way, config = "several blocks", None
    if told["block_length"] == told["gen_length"]:
        way = "window" if "prefix_look" in told else told["cache"] or "none"
        commit = {
            "kind": "annealed_threshold",
            "threshold": told["threshold"],
            "decay": told["threshold_decay"],
        }
        belief = {
            "kind": "smoothing",
            "weight": told["cont_weight"],
            "initial": told["cont_weight_init"],
            "growth": told["cont_weight_growth"],
            "top": 95,
        }
        cache = _window(told) if way == "window" else way
        config = config_of(told["block_length"], commit, cache, belief=belief)
    return case_of("smooth", number, told, way=way, config=config)


def _window(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "vicinity",
        "before": told["prefix_look"],
        "after": told["after_look"],
        "warmup": told["warmup_steps"],
    }


TRANSLATIONS: dict[str, Callable[[int, dict[str, Any]], Case]] = {
    "adablock": _adablock,
    "vicinity": _vicinity,
    "smooth": _smooth,
}
