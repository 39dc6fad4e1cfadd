"""The static shape of a step: the key of compilation and of CUDA-graph capture."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY = re.compile(
    r"b(?P<batch>\d+)-w(?P<rows>\d+)-r(?P<head_rows>\d+)-s(?P<slots>\d+)\+(?P<scratch>\d+)"
    r"-(?P<statistics>[^-]+)-(?P<mask>[^-]+)-(?P<inputs>[^-]+)-(?P<dtype>[^-]+)"
    r"(?P<saliency>-saliency)?"
)
_EXTRAS = re.compile(r"entropy|hidden|second|logits|(top|gather)[1-9]\d*")


def statistics_name(base: str, extras: Iterable[str]) -> str:
    """The name of a statistics set: of several numbers of top tokens, or gathers, the largest."""
    largest: dict[str, int] = {}
    for extra in extras:
        name = extra.rstrip("0123456789")
        largest[name] = max(largest.get(name, 0), int(extra[len(name) :] or 0))
    return "+".join((base, *(f"{name}{count or ''}" for name, count in sorted(largest.items()))))


def statistics_parts(name: str) -> tuple[str, dict[str, int]]:
    """Base and extras of a statistics set; of `top` and `gather` how many, of others 0."""
    base, *extras = name.split("+")
    kinds = [extra.rstrip("0123456789") for extra in extras]
    return base, {k: int(e[len(k) :] or 0) for k, e in zip(kinds, extras, strict=True)}


class StepPlan(BaseModel):
    """Sizes and variants of one partial evaluation of a denoiser.

    Attributes:
        batch: Sequences evaluated together, B.
        rows: Positions evaluated per sequence, W.
        head_rows: Rows of the W for which statistics are computed, R.
        slots: Cache slots per sequence that attention reads, S; scratch slots excluded.
        scratch: Slots after the S that padded rows write to and nothing reads.
        statistics: `greedy` (arg-max and tail mass), `sampled` (of noised logits) or `none`; and
            after a `+` each what policies ask for beyond: `entropy`, `second` (the next best
            logit), `top8` (ids and logits), `gather4` (logits of given ids), `logits`, `hidden`
            (what the head is given).
        mask: `limit` (keys before `key_limit[B]`), or `row_limit` (before `key_limit[B, W]`, of
            models whose attention is block-causal); with `+tree` also what `key_mask[B, W, S]`
            allows, for several drafts in one row.
        inputs: `tokens`, or `mixture4`: the weighted sum of so many embeddings.
        saliency: Whether it returns how much the head rows attend to each slot, per layer.
        dtype: Of weights and activations, as torch spells it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(gt=0)
    rows: int = Field(gt=0)
    head_rows: int = Field(ge=0)
    slots: int = Field(gt=0)
    scratch: int = Field(default=1, ge=1)
    statistics: str = "greedy"
    mask: Literal["limit", "row_limit", "limit+tree", "row_limit+tree"] = "limit"
    inputs: str = Field(default="tokens", pattern=r"^(tokens|mixture[1-9]\d*)$")
    saliency: bool = False
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> StepPlan:
        base, *extras = self.statistics.split("+")
        if base not in ("greedy", "sampled") and self.statistics != "none":
            raise ValueError(f"`statistics`={self.statistics!r}: greedy, sampled or none expected")
        if not all(_EXTRAS.fullmatch(extra) for extra in extras):
            raise ValueError(f"`statistics`={self.statistics!r} asks for what is unknown")
        if statistics_name(base, extras) != self.statistics:
            raise ValueError(
                f"`statistics`={self.statistics!r} is spelled {statistics_name(base, extras)!r}"
            )
        if self.head_rows > self.rows:
            raise ValueError(f"`head_rows`={self.head_rows} must not exceed `rows`={self.rows}")
        if (self.head_rows == 0) != (self.statistics == "none"):
            raise ValueError("`head_rows`=0 goes with `statistics`='none' and only with it")
        return self

    @property
    def key(self) -> str:
        """A short name, unique among plans."""
        name = f"b{self.batch}-w{self.rows}-r{self.head_rows}-s{self.slots}+{self.scratch}"
        saliency = "-saliency" if self.saliency else ""
        return f"{name}-{self.statistics}-{self.mask}-{self.inputs}-{self.dtype}{saliency}"

    @classmethod
    def from_key(cls, key: str) -> StepPlan:
        """The plan that has this key.

        Raises:
            ValueError: None has.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"`{key}` is no key of a plan")
        return cls.model_validate({**match.groupdict(), "saliency": match["saliency"] is not None})
