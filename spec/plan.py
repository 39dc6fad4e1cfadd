"""The static shape of a step: the key of compilation and of CUDA-graph capture."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Statistics = Literal["none", "greedy", "sampled"]


class StepPlan(BaseModel):
    """Sizes and variants of one partial evaluation of a denoiser.

    Attributes:
        batch: Sequences evaluated together, B.
        rows: Positions evaluated per sequence, W.
        head_rows: Rows of the W for which statistics are computed, R.
        slots: Cache slots per sequence that attention reads, S; scratch slots excluded.
        scratch: Slots after the S that padded rows write to and nothing reads.
        statistics: `greedy` (arg-max and tail mass), `sampled` (of noised logits) or `none`.
        mask: `limit` (keys before `key_limit[B]`), or `row_limit` (before `key_limit[B, W]`, of
            models whose attention is block-causal); masks of other forms come with the policies
            that need them.
        inputs: `tokens`; mixtures come with the policies that need them.
        dtype: Of weights and activations, as torch spells it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(gt=0)
    rows: int = Field(gt=0)
    head_rows: int = Field(ge=0)
    slots: int = Field(gt=0)
    scratch: int = Field(default=1, ge=1)
    statistics: Statistics = "greedy"
    mask: Literal["limit", "row_limit"] = "limit"
    inputs: Literal["tokens"] = "tokens"
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> StepPlan:
        if self.head_rows > self.rows:
            raise ValueError(f"`head_rows`={self.head_rows} must not exceed `rows`={self.rows}")
        if (self.head_rows == 0) != (self.statistics == "none"):
            raise ValueError("`head_rows`=0 goes with `statistics`='none' and only with it")
        return self

    @property
    def key(self) -> str:
        """A short name, unique among plans."""
        name = f"b{self.batch}-w{self.rows}-r{self.head_rows}-s{self.slots}+{self.scratch}"
        return f"{name}-{self.statistics}-{self.mask}-{self.inputs}-{self.dtype}"
