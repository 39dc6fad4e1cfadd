"""Published decodes that differ in what commits: scores, commits, and where a response is cut."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golden.case import Case, case_of, config_of
from golden.filters import draw_filter
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERS = {"maskgit_plus": "probability", "topk_margin": "margin", "entropy": "entropy"}


def _localleap(number: int, told: dict[str, Any]) -> Case:
    commit = {
        "kind": "local_leap",
        "threshold": told["threshold"],
        "relaxed": told["relaxed_threshold"],
        "radius": told["radius"],
    }
    config = config_of(told["block_length"], commit)
    return case_of("localleap", number, told, way="local_leap", config=config)


def _cached(system: str, number: int, told: dict[str, Any], **policies: Any) -> Case:
    """With a cache the published loops evaluate a block again that its refresh has finished."""
    cache = told["cache"] or "none"
    config = config_of(told["block_length"], cache=cache, **policies)
    nfe = told["nfe"] if cache == "none" else None
    return case_of(system, number, told, way=cache, config=config, nfe=nfe)


def _credit(number: int, told: dict[str, Any]) -> Case:
    """As many slots as may be: the published form has one for every token."""
    score = {
        "kind": "credit",
        "fusion": told["credit_alpha"],
        "exponent": told["boost_gamma"],
        "decay": told["decay_beta"],
        "slots": 8,
    }
    commit = {"kind": "threshold", "threshold": told["threshold"]}
    return _cached("credit", number, told, commit=commit, score=score)


def _hierarchy(number: int, told: dict[str, Any]) -> Case:
    commit = {
        "kind": "hierarchy",
        "threshold": 1 if told["threshold"] is None else told["threshold"],
        "low": 0 if told["low_threshold"] is None else told["low_threshold"],
    }
    return _cached("hierarchy", number, told, commit=commit)


def _dinfer_runner(number: int, told: dict[str, Any]) -> Case:
    """A loop that ends at a token, or goes on without looking whether its block is finished.

    It looks for a token that ends the response when a block is finished, and the evaluations of a
    finished block are for nothing: ours makes as many or fewer. Left out are those that refresh a
    cache: what they count are turns of the loop, one or two evaluations each, over all blocks.
    """
    stop = "eos" if told.get("early_stop") else "length"
    keys, tokens, config = (), told["tokens"], None
    if stop == "eos":
        keys = (("eos_token_id", told["eos_id"]),)
        ends = [index + 1 for index, token in enumerate(tokens) if token == told["eos_id"]]
        tokens = tokens[: min(ends, default=None)]
    if "cache_update_freq" not in told:
        commit = {"kind": "threshold", "threshold": told["threshold"]}
        config = config_of(told["block_length"], commit, told["cache"] or "none", stop=stop)
    loop = "refreshed" if config is None else "plain"
    loop = "unrolled" if "maximum_unroll" in told else loop
    way = f"{loop}, {told['cache'] or 'none'} until {stop}"
    own = {"keys": keys, "tokens": tokens, "length": told["gen_length"], "nfe": None}
    return case_of("dinfer_runner", number, told, way=way, config=config, **own)


def _dparallel(number: int, told: dict[str, Any]) -> Case:
    commit = {"kind": "entropy", "threshold": told["threshold"]}
    return _cached("dparallel", number, told, commit=commit, score={"kind": "entropy"})


def _dparallel_dream(number: int, told: dict[str, Any]) -> Case:
    commit = {"kind": "entropy", "threshold": told["threshold"]}
    config = config_of(told["block_length"], commit, score={"kind": "entropy"})
    return case_of("dparallel_dream", number, told, way="none", config=config)


def _eb_sampler(number: int, told: dict[str, Any]) -> Case:
    """As published, every entropy is its own maximum; that agrees where entropies ascend."""
    way, config = f"{told['alg']}, each its own maximum", None
    if told["cummax_dim"] == 1 or told["alg"] == "entropy":
        way = told["alg"]
        commit = {"kind": "entropy_bound", "bound": told["gamma"]}
        score = {"kind": ORDERS[told["alg"]]}
        config = config_of(told["block_length"], commit, score=score)
    return case_of("eb_sampler", number, told, way=way, config=config)


def _learn2pd(number: int, told: dict[str, Any]) -> Case:
    """Where the published loop can end it is told of a token that ends the response.

    Left out are loops without a cache that end, as they look at predictions behind the block,
    and those with the dual cache, as rows behind a cut are attended there until the next refresh.
    """
    length, loop, end = told["block_length"], told["loop"], told["end"]
    keys, tokens, config = (), told["tokens"], None
    if end:
        keys = (("eos_token_id", told["eot_id"]),)
        ends = [index + 1 for index, token in enumerate(tokens) if token == told["eot_id"]]
        tokens = tokens[: min(ends, default=None)]
    if not end or loop == "prefix":
        score = {"kind": "learned_filter", "path": filter_file(length, told["filter_seed"])}
        commit = {"kind": "threshold", "threshold": told["accept_thres"]}
        cache, stop = loop if loop in ("prefix", "dual") else "none", "eot" if end else "length"
        config = config_of(length, commit, cache, score=score, stop=stop)
    own = {"keys": keys, "tokens": tokens, "length": told["gen_length"]}
    way = f"{loop} until {'eos' if end else 'length'}"
    return case_of("learn2pd", number, told, way=way, config=config, **own)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def filter_file(width: int, seed: int) -> str:
    """Path of a filter that follows from a seed."""
    path = Path(_folder().name) / f"{width}-{seed}.safetensors"
    if not path.exists():
        save_file(draw_filter(width, seed), path)
    return str(path)


TRANSLATIONS: dict[str, Callable[[int, dict[str, Any]], Case]] = {
    "localleap": _localleap,
    "credit": _credit,
    "hierarchy": _hierarchy,
    "dinfer_runner": _dinfer_runner,
    "dparallel": _dparallel,
    "dparallel_dream": _dparallel_dream,
    "eb_sampler": _eb_sampler,
    "learn2pd": _learn2pd,
}
