from __future__ import annotations

import pytest

from dllmc.policies.cache.none import NoCache
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec


def test_every_evaluation_covers_what_a_row_can_see() -> None:
    spec = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    for step in (0, 3):
        standing = Standing((8, 12), (8, 12), (0, 20), 20, step, step, 3, True, 0)
        assert NoCache().evaluate(standing, spec) == Evaluation(range(20), range(8, 12), True)


def test_there_is_nothing_to_refresh() -> None:
    assert NoCache.knobs() == {}
    with pytest.raises(ConfigError, match="`refresh_every`=3"):
        NoCache(refresh_every=3)
