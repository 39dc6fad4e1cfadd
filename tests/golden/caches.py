"""Published decodes that differ in what is evaluated: caches, drafts, and the pipeline of D2F."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from golden.case import Case, case_of, config_of

if TYPE_CHECKING:
    from collections.abc import Callable


def _dkv_llada(number: int, told: dict[str, Any]) -> Case:
    """Of the greedy loop the order is recorded too: `tests/runtime/test_published_order.py`."""
    config = None
    if told["loop"] == "decode":
        cache = {"kind": "dkv", "counts": "steps", "refresh_every": told["cache_reloading_step"]}
        commit = {"kind": "quota", "steps": told["steps"]}
        config = config_of(told["block_length"], commit, cache)
    own = {"way": told["loop"], "config": config, "rows": told["rows"]}
    return case_of("dkv_llada", number, told, **own)


def _dkv_dream(number: int, told: dict[str, Any]) -> Case:
    """`prefill` evaluates the whole response every time, and the prompt once."""
    way = told["cache_type"]
    cache = {
        "kind": "dkv",
        "counts": "steps",
        "refresh_every": told.get("cache_steps", 1),
        "prompt": "refreshed" if way == "decoded" else "once",
        "shift": told.get("shift_type", "un"),
    }
    config = {
        "schedule": {"kind": "whole"},
        "commit": {"kind": "timesteps", "steps": told["steps"]},
        "cache": cache,
        "stop": {"kind": "length"},
    }
    return case_of("dkv_dream", number, told, way=way, config=config, rows=told["rows"])


def _sparse(number: int, told: dict[str, Any], system: str) -> Case:
    cache = {"kind": "sparse", "ratio": told["keep_ratio"], "kernel": told["kernel_size"] or 1}
    length, steps = told["block_length"], told["steps"]
    commit = {"kind": "quota", "steps": steps}
    if system == "sparse_dream":  # which counts the steps of a block
        blocks = told["max_new_tokens"] // length
        commit = {"kind": "timesteps", "steps": steps // blocks}
    config = config_of(length, commit, cache)
    own = {"way": f"keeps {told['keep_ratio']}", "config": config, "rows": told["rows"]}
    return case_of(system, number, told, **own)


def _freedave(number: int, told: dict[str, Any], system: str) -> Case:
    """Its drafts are lossless where one token is committed at a time.

    With a threshold it may take a draft that holds some of the tokens that were decided, and so
    another way than the loop without drafts: ours are compared with that loop. For Dream it drafts
    from what a block's full evaluation says of all the block, ours from the next evaluation on;
    and for SDAR it can draft beyond the block.
    """
    length, threshold = told["block_length"], told.get("confidence_threshold")
    plain = told["plain"]
    tokens, most = plain.get("tokens", told["tokens"]), plain["nfe"]
    commit = {"kind": "threshold", "threshold": threshold} if threshold else {"kind": "quota"}
    keys: tuple[tuple[str, Any], ...] = ()
    cache, way = "dual" if told.get("dual_cache") else "prefix", "dual or prefix"
    if system == "freedave_sdar":
        # The last block is evaluated for the cache too, which nobody reads.
        keys, cache, most = (("block_size", length),), "block_causal", most - 1
        tokens, way = tokens[: told["max_gen_length"]], "block_causal"
    nfe = None
    if threshold is None and system != "freedave_dream" and "eager_acceptance_mode" not in told:
        nfe = told["nfe"] - (system == "freedave_sdar")
    verify = {"kind": "self_speculation", "branches": told["draft_steps"]}
    config = config_of(length, commit, cache, verify=verify)
    own = {"keys": keys, "tokens": tokens, "nfe": nfe, "most": most}
    way += ", threshold" if threshold else ", one token"
    return case_of(system, number, told, way=way, config=config, **own)


def _d2f(number: int, told: dict[str, Any], system: str = "d2f") -> Case:
    """Ours ends as soon as a token that ends the response has no mask before it."""
    keys = [("block_size", told["block_size"])]
    tokens, nfe, stop = told["tokens"], told["nfe"], "length"
    if "eos_token_id" in told:
        end = told["eos_token_id"]
        keys += [("eos_token_id", end)]
        tokens, nfe, stop = tokens[: tokens.index(end) + 1], None, "eos"
    config = {
        "schedule": {
            "kind": "pipeline",
            "add_threshold": told["block_add_threshold"],
            "activate_threshold": told["decoded_token_threshold"],
        },
        "commit": {"kind": "threshold", "threshold": told["skip_threshold"]},
        "cache": {"kind": "block_causal", "append": "joined"},
        "stop": {"kind": stop},
    }
    overlaps = told["block_add_threshold"] < 1
    way = "overlapping blocks" if overlaps else "one block after the other"
    own = {"keys": tuple(keys), "way": f"{way} until {stop}", "config": config, "nfe": nfe}
    length = told["max_new_tokens"]
    return case_of(system, number, told, tokens=tokens, length=length, **own)


TRANSLATIONS: dict[str, Callable[[int, dict[str, Any]], Case]] = {
    "dkv_llada": _dkv_llada,
    "dkv_dream": _dkv_dream,
    "sparse_llada": functools.partial(_sparse, system="sparse_llada"),
    "sparse_dream": functools.partial(_sparse, system="sparse_dream"),
    "freedave_llada": functools.partial(_freedave, system="freedave_llada"),
    "freedave_dream": functools.partial(_freedave, system="freedave_dream"),
    "freedave_sdar": functools.partial(_freedave, system="freedave_sdar"),
    "d2f": _d2f,
    "d2f_eos": functools.partial(_d2f, system="d2f_eos"),
}
