"""The most probable strings of a block that an automaton allows (DINGO, arXiv 2505.23061)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.policies.constrain._automaton import TokenAutomaton

# A token of probability 0 counts as this improbable: worse than all others of a block together,
# better than a string that is not allowed, and sums of it keep 1e-5 of a logit in float64.
FLOOR = -1e9


def most_probable(
    log_probs: Tensor,
    fixed: Tensor,
    state: Tensor,
    remaining: Tensor,
    automaton: TokenAutomaton,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The most probable strings that the automaton allows and that can still be completed.

    Of strings equally probable, that with the lowest token id at the first place where they
    differ. Sums are float64. Each position costs two passes over the vocabulary and one over the
    E edges: 8 rows of 32 positions, for any JSON object over 32,000 tokens, take one core 150 ms,
    100 ms of them the vocabulary.

    Args:
        log_probs: `[N, L, V]`. Logits do as well: a constant of a position changes no comparison.
        fixed: Token id where one is committed, -1 where masked, `[N, L]`.
        state: Before the block, `[N]`.
        remaining: Positions of the response after the block, `[N]`.
        automaton: Of all rows.
        valid: Positions that belong to the block, `[N, L]` bool; None is all. Others are passed
            over, and keep their `fixed`.

    Returns:
        Token ids `[N, L]` and the state after the block `[N]`. Where the committed tokens allow
        no string, `fixed` as it was, and the dead state.
    """
    valid = torch.ones_like(fixed, dtype=torch.bool) if valid is None else valid
    toward = _toward_the_end(log_probs, fixed, remaining, automaton, valid)
    before, chosen = state, []
    for position, after in enumerate(toward[1:]):
        worth = after.gather(1, automaton.table[state])[:, automaton.classes]
        worth = worth + log_probs[:, position].double().clamp(min=FLOOR)
        # Of equal maxima argmax takes the first.
        best = torch.where(fixed[:, position] < 0, worth.argmax(dim=1), fixed[:, position])
        chosen.append(torch.where(valid[:, position], best, fixed[:, position]))
        state = _step(automaton, state, chosen[-1], valid[:, position])
    possible = toward[0].gather(1, before[:, None])[:, 0] > -torch.inf
    ids = torch.where(possible[:, None], torch.stack(chosen, dim=1), fixed)
    return ids, torch.where(possible, state, automaton.dead)


def advance(
    tokens: Tensor, state: Tensor, automaton: TokenAutomaton, valid: Tensor | None = None
) -> Tensor:
    """The state after committed `tokens` `[N, L]`, `[N]`; what is not `valid` is passed over."""
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    for position in range(tokens.shape[1]):
        state = _step(automaton, state, tokens[:, position], valid[:, position])
    return state


def _step(automaton: TokenAutomaton, state: Tensor, token: Tensor, valid: Tensor) -> Tensor:
    after = automaton.table[state, automaton.classes[token]]
    return torch.where(valid, after, state)


def _toward_the_end(
    log_probs: Tensor, fixed: Tensor, remaining: Tensor, automaton: TokenAutomaton, valid: Tensor
) -> list[Tensor]:
    """Log probability of the best rest of the block by position and state, `L + 1` of `[N, Q]`."""
    best = _best_of_classes(log_probs, fixed, automaton)
    reachable = automaton.distance <= remaining[:, None]
    toward = [torch.where(reachable, 0.0, -torch.inf).double()]
    source = automaton.source.expand(len(fixed), -1)
    # By edges, not the whole table of states and classes: 45 and not 135 ms in the case above.
    for position in reversed(range(fixed.shape[1])):
        after = toward[-1]
        worth = best[:, position, automaton.label] + after[:, automaton.target]
        before = torch.full_like(after, -torch.inf).scatter_reduce(1, source, worth, "amax")
        toward.append(torch.where(valid[:, position, None], before, after))
    return toward[::-1]


def _best_of_classes(log_probs: Tensor, fixed: Tensor, automaton: TokenAutomaton) -> Tensor:
    """Log probability of the best token of each class, `[N, L, C]`; at a committed position 0 for
    the class of its token and no other."""
    size = (*fixed.shape, automaton.table.shape[1])
    classes = automaton.classes.expand_as(log_probs)
    unset = log_probs.new_full(size, -torch.inf)
    best = unset.scatter_reduce(2, classes, log_probs, "amax").double().clamp(min=FLOOR)
    only = automaton.classes[fixed][..., None] == torch.arange(size[2], device=fixed.device)
    return torch.where(fixed[..., None] < 0, best, torch.where(only, 0.0, -torch.inf))
