"""What the module says of a canvas, and of one position of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllmc.policies.layout import attention_limit
from dllmc.policies.rows import Prediction
from dllmc.reference.joint import HeadWatch
from dllmc.reference.memory import AttentionMemory
from dllmc.reference.mixing import MixedEmbeddings
from dllmc.reference.noise import gumbel

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from numpy.typing import NDArray
    from torch import nn

    from dllmc.policies.config import DecodingConfig
    from dllmc.reference.memory import Filter
    from dllmc.spec import DenoiserSpec


class Evaluator:
    """Runs the module over the whole canvas, as if only some rows of it were evaluated."""

    def __init__(
        self, module: nn.Module, spec: DenoiserSpec, config: DecodingConfig, prompt_length: int
    ) -> None:
        self.module, self.spec, self.config = module, spec, config
        self.memory = AttentionMemory()
        self.head = HeadWatch()
        self._prompt_length = prompt_length

    def logits(
        self,
        canvas: list[int],
        evaluated: Set[int],
        mixtures: Mapping[int, Mapping[int, float]],
        filtered: Filter | None = None,
        *,
        reach: int,
        reads_kept: bool = False,
    ) -> NDArray[np.float64]:
        """Logits `[T, vocab_size]`; rows that are not in `evaluated` mean nothing.

        Args:
            canvas: Token ids.
            evaluated: Positions.
            mixtures: What masked positions are fed instead of the mask, as weights by token.
            filtered: As for `AttentionMemory.forward`.
            reach: What lies before this position is all that the block can see.
            reads_kept: As for `AttentionMemory.forward`.
        """
        device = next(self.module.parameters()).device
        tokens = torch.tensor([canvas], device=device)
        masks = {p for p, token in enumerate(canvas) if token == self.spec.mask_id}
        soft = {p: m for p, m in mixtures.items() if p in masks}
        limits = self._limits(len(canvas), reach, device)
        watch = self.head if self.config.verify.passes else contextlib.nullcontext()
        # Looking at every call of torch takes a third of a tiny model's time.
        mixed = MixedEmbeddings(tokens, soft) if soft else contextlib.nullcontext()
        with torch.no_grad(), watch, mixed:
            if self.config.cache.kind == "none" and limits is None:
                logits = self.module(tokens)
            else:
                logits = self.memory.forward(
                    self.module,
                    tokens,
                    sorted(evaluated),
                    limits,
                    filtered,
                    reads_kept=reads_kept,
                )
        if self.config.verify.passes:
            self.head.keep(logits)
        array: NDArray[np.float64] = logits[0].double().cpu().numpy()
        return array

    def truncate(self, length: int) -> None:
        """Forget what was remembered of positions from `length` on."""
        self.memory.truncate(length)

    def _limits(self, length: int, reach: int, device: torch.device) -> torch.Tensor | None:
        if self.config.schedule.slides:
            # What lies beyond the window is not on the canvas yet.
            return torch.full((length,), reach, device=device)
        if self.spec.attention != "block_causal" or self.spec.blocks_from != "response":
            return None
        found = [attention_limit(self.spec, p, self._prompt_length, length) for p in range(length)]
        return torch.tensor(found, device=device)


def predict(
    logits: NDArray[np.float64],
    row: int,
    position: int,
    token: int,
    spec: DenoiserSpec,
    config: DecodingConfig,
    counters: tuple[int, int, int],
) -> Prediction:
    """What a row of logits says of a position.

    Args:
        logits: `[V]`.
        row: Position of the row, which names its noise.
        position: That it predicts: the row's own, or the next with shifted logits.
        token: What stands there.
        spec: Of the denoiser.
        config: For its temperature.
        counters: Seed, stream and steps before this one.
    """
    noised = logits.copy()
    if config.temperature > 0:
        seed, stream, draws = counters
        noised += config.temperature * gumbel(seed, stream, row, draws, len(logits))
    noised[spec.mask_id] = -np.inf
    candidate = int(noised.argmax())  # the first of equals: the lowest id
    margin = noised[candidate] - np.delete(noised, candidate).max()
    others = np.delete(logits, candidate)
    with np.errstate(over="ignore"):  # an infinite doubt is a valid one
        tail_mass = float(np.exp(others - logits[candidate]).sum())
    return Prediction(
        position=position,
        token=token,
        masked=token == spec.mask_id,
        candidate=candidate,
        logit=float(logits[candidate]),
        margin=float(margin),
        tail_mass=tail_mass,
        doubt=tail_mass,
        logits=logits,
        counters=counters,
        noised=row,
        temperature=config.temperature,
        mask_id=spec.mask_id,
    )
