"""Published decodes of APD: Dream, with a Qwen2 of the same tokens beside it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from golden.case import Case, case_of
from golden.published import model, stored

if TYPE_CHECKING:
    from dllmc.models import LoadedModel

SYSTEM = "apd"


@dataclass(frozen=True)
class Assisted:
    """One decode.

    Attributes:
        case: As of other systems.
        auxiliary: Place of the causal model in the file, or None where it was not asked.
        accepted: Tokens that each evaluation committed.
    """

    case: Case
    auxiliary: int | None
    accepted: list[int]

    @property
    def models(self) -> tuple[LoadedModel, LoadedModel | None]:
        helper = None if self.auxiliary is None else model(SYSTEM, self.auxiliary)
        return model(SYSTEM, self.case.model, self.case.keys), helper


@functools.cache
def cases() -> tuple[Assisted, ...]:
    return tuple(_assisted(number, told) for number, told in enumerate(stored(SYSTEM)["cases"]))


def _assisted(number: int, told: dict[str, Any]) -> Assisted:
    """What was accepted together with the token that ends the response is no part of ours."""
    tokens, length, keys = told["tokens"], told["max_new_tokens"], ()
    stop = "length"
    if "eos_token_id" in told:
        end = told["eos_token_id"]
        keys, stop = (("eos_token_id", end),), "eos"
        tokens = tokens[: tokens.index(end) + 1]
    config = {
        "schedule": {"kind": "lookahead", "length": told["max_lookahead"] or length},
        "commit": {"kind": "leftmost", "tokens": told.get("tokens_per_step", 1)},
        "cache": {"kind": "trailing", "length": told["kv_window"]},
        "stop": {"kind": stop},
    }
    if told["alg"] == "apd":
        config["verify"] = {"kind": "apd", "mixture": told["apd_mixture_weight"]}
    own = {"keys": keys, "config": config, "tokens": tokens, "length": length}
    case = case_of(SYSTEM, number, told, way=told["alg"], rows=told["rows"], **own)
    return Assisted(case, told.get("auxiliary"), told["accepted"])
