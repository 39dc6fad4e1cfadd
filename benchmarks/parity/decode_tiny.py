"""Tiny LLaDAs for the scripts `decode_*.py` whose published loop takes any model.

`Plain` wraps our module, for loops that only call it; `Cached` holds the class that a clone
brings, for those that also pass keys and values. Both have the same weights.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, ClassVar

import decode_common as common
import torch

from dllmc.models.llada import LLaDA

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

# Width, heads, key and value heads, layers.
SHAPES = ((32, 4, None, 2), (32, 4, 2, 2), (48, 6, 2, 3), (32, 8, None, 3))
LENGTHS = (1, 3, 8, 9, 13, 16, 22)


class Tiny:
    """A model, its evaluations and how many of its decodes the rule changed.

    Attributes:
        rows: How many positions each evaluation of the last decode was given.
        changed: Decodes that differ from those without the rule.
    """

    names: ClassVar[dict[str, str]] = common.LLADA

    def __init__(self, number: int) -> None:
        self.keys = self.keys_of(number)
        self.model = common.give_weights(self.build(), common.scales(number) | self.names)
        self.probe = common.probe(self.logits, 7)
        self.rows: list[int] = []
        self.changed = 0
        self.model.register_forward_pre_hook(self._note, with_kwargs=True)

    def keys_of(self, number: int) -> dict[str, Any]:
        return common.llada_keys(number, SHAPES[number])

    def build(self) -> nn.Module:
        raise NotImplementedError

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _note(self, _: nn.Module, args: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
        given = args[0] if args else named["inputs_embeds"]
        self.rows.append(given.shape[1])

    def counted(
        self, run: Callable[[torch.Tensor], tuple[torch.Tensor, int | None]], prompt: list[int]
    ) -> dict[str, Any]:
        """What `run` returns for a prompt, without the prompt, and its evaluations.

        `run` also returns the evaluations that the loop itself counts, if it does.
        """
        self.rows.clear()
        found, nfe = run(torch.tensor([prompt]))
        (tokens,) = found.tolist()
        assert tokens[: len(prompt)] == prompt
        assert nfe in (None, len(self.rows))
        decoded = {"tokens": tokens[len(prompt) :], "nfe": len(self.rows)}
        return decoded | ({"rows": list(self.rows)} if len(set(self.rows)) > 1 else {})

    def compare(self, decoded: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        """Counts a decode that the rule changed: `plain` is the same without it."""
        self.changed += decoded != plain
        return decoded


class Plain(Tiny):
    device = torch.device("cpu")

    def build(self) -> nn.Module:
        return LLaDA.from_config(self.keys)[0]

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(tokens)
        return found

    def __call__(self, tokens: torch.Tensor) -> Any:
        return types.SimpleNamespace(logits=self.logits(tokens))


class Cached(Tiny):
    """Fast-dLLM's LLaDA, of which each clone has its own copy in a package `model`."""

    def build(self) -> nn.Module:
        from model.configuration_llada import LLaDAConfig
        from model.modeling_llada import LLaDAModelLM

        config = LLaDAConfig(**self.keys, init_device="cpu", flash_attention=False)
        model: nn.Module = LLaDAModelLM(config, init_params=True)
        return model

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(tokens).logits
        return found


def tell_changed(models: list[Any], cases: int, rule: str) -> None:
    """Says how many decodes the rule changed, and refuses a file in which it hardly did."""
    changed = sum(model.changed for model in models)
    print(f"{rule}: {changed} of {cases} decodes differ from those without it")
    assert 2 * changed >= cases, "choose other settings: the rule is not tested"
