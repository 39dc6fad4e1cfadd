"""What a published decode is, whatever the system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllmc.policies.config import DecodingConfig


@dataclass(frozen=True)
class Case:
    """One decode.

    Attributes:
        number: Place in the file.
        model: Place of the model in the file.
        keys: What the decode asks for beyond the model's own keys of `config.json`.
        way: Kind of decode, to group by.
        config: Fields of our configuration, or None where there is no policy for it yet.
        tokens: Returned, without what lies beyond the response.
        nfe: Evaluations that our decoders should make; None where they may make fewer than
            `most`, which is what the published loop made.
        length: Of the response, where more was asked for than returned.
        rows: Positions of each evaluation, where that was recorded.
    """

    system: str
    number: int
    model: int
    prompt: tuple[int, ...]
    keys: tuple[tuple[str, Any], ...]
    way: str
    config: dict[str, Any] | None
    tokens: list[int]
    nfe: int | None
    most: int
    length: int | None = None
    rows: list[int] | None = None

    @property
    def max_new_tokens(self) -> int:
        return len(self.tokens) if self.length is None else self.length

    def agrees_on(self, nfe: int) -> bool:
        return nfe <= self.most if self.nfe is None else nfe == self.nfe

    def decoding(self) -> DecodingConfig:
        assert self.config is not None
        return DecodingConfig(**self.config)


def case_of(system: str, number: int, told: dict[str, Any], **own: Any) -> Case:
    shared = {"keys": (), "tokens": told["tokens"], "nfe": told["nfe"], "most": told["nfe"]}
    prompt = tuple(told["prompt"])
    return Case(system, number, told["model"], prompt, **(shared | own))


def config_of(
    block_length: int,
    commit: dict[str, Any],
    cache: dict[str, Any] | str = "none",
    *,
    stop: str = "length",
    **others: Any,
) -> dict[str, Any]:
    return {
        "schedule": {"kind": "blocks", "block_length": block_length},
        "commit": commit,
        "cache": {"kind": cache} if isinstance(cache, str) else cache,
        "stop": {"kind": stop},
        **others,
    }
