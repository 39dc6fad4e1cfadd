from __future__ import annotations

import pytest

from dllmc.policies.cache.none import NoCache
from dllmc.spec import ConfigError


def test_every_evaluation_covers_the_canvas() -> None:
    assert NoCache().window((8, 12), 20) == (0, 20)
    assert all(NoCache().oracle(position, (8, 12), 20) for position in range(20))


def test_there_is_nothing_to_refresh() -> None:
    assert NoCache.knobs() == {}
    with pytest.raises(ConfigError, match="`refresh_every`=3"):
        NoCache(refresh_every=3)
