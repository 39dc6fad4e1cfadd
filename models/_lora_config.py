"""The keys of `adapter_config.json`, and a refusal of what is not merged here."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dllmc.models._keys import Size, one_line, refuse_others
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys that change what is added to the weights, or to which, with the values for which it is
# the sum that _lora.py forms. Some ways to initialise move the base's weights too.
_ONLY: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "alpha_pattern": ({}, None),
    "bias": ("none",),
    "exclude_modules": (None, []),
    "fan_in_fan_out": (False, None),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", None),
    "layer_replication": (None, []),
    "layers_to_transform": (None, []),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "use_dora": (False, None),
    "use_qalora": (False, None),
}


class LoraConfig(BaseModel):
    """The keys that are read; others, such as `lora_dropout`, matter in training only."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    base_model_name_or_path: str
    r: Size
    lora_alpha: Annotated[float, Field(gt=0)]
    target_modules: str | list[str]
    use_rslora: bool = False
    attention: Literal["full", "block_causal"] | None = None
    """Not a published key: `block_causal` where the adapter was trained so, as D2F's are."""
    block_length: Size | None = None
    """Not a published key: length of the response's blocks."""

    @classmethod
    def parse(cls, keys: Mapping[str, object]) -> LoraConfig:
        """Validate the keys of `adapter_config.json`.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        refuse_others(keys, _ONLY)
        try:
            return cls.model_validate(keys)
        except ValidationError as error:
            raise CheckpointError(one_line(error)) from error

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def targets(self, module: str) -> bool:
        """Whether the layer of this name is adapted: a list has names or their ends."""
        if isinstance(self.target_modules, str):
            return re.fullmatch(self.target_modules, module) is not None
        return any(module == end or module.endswith(f".{end}") for end in self.target_modules)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(
                    f"`target_modules`={self.target_modules!r} is no regular expression ({error})"
                ) from error
        return self
