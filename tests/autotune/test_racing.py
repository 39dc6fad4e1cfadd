from __future__ import annotations

import random

import pytest

from dllmc.autotune.racing import Race


def raced(
    loss: float, *, discordance: float, prompts: int, seed: int, margin: float = 0.02
) -> Race:
    """A race in which `discordance` of the prompts is right for one of the two only."""
    rng, race = random.Random(seed), Race(margin)
    for _ in range(prompts):
        point = rng.random()
        losing, winning = (discordance + loss) / 2, (discordance - loss) / 2
        race.update(reference=point >= winning, candidate=point < 1 - losing)
        if race.lost:
            break
    return race


def test_losses_and_wins_are_counted() -> None:
    race = Race(0.02)
    for reference, candidate in ((True, True), (True, False), (True, False), (False, True)):
        race.update(reference, candidate)
    assert (race.n, race.losses, race.wins, race.loss) == (4, 2, 1, 0.25)


@pytest.mark.parametrize("discordance", [0.02, 0.1, 0.3])
def test_a_candidate_that_loses_the_whole_margin_is_dropped_in_under_a_tenth_of_races(
    discordance: float,
) -> None:
    runs = [raced(0.02, discordance=discordance, prompts=256, seed=s).lost for s in range(300)]
    assert sum(runs) / 300 <= 0.1


@pytest.mark.parametrize("discordance", [0.02, 0.1, 0.3])
def test_an_equally_good_candidate_is_hardly_ever_dropped(discordance: float) -> None:
    runs = [raced(0.0, discordance=discordance, prompts=256, seed=s).lost for s in range(300)]
    assert sum(runs) / 300 <= 0.04


@pytest.mark.parametrize(("loss", "prompts"), [(0.2, 64), (0.4, 24), (1.0, 8)])
def test_a_lossy_candidate_is_dropped_soon(loss: float, prompts: int) -> None:
    needed = sorted(
        race.n if race.lost else 999
        for race in (raced(loss, discordance=loss, prompts=512, seed=s) for s in range(101))
    )
    assert needed[50] <= prompts


def test_a_race_that_was_lost_stays_lost() -> None:
    race = Race(0.02)
    while not race.lost:
        race.update(reference=True, candidate=False)
    for _ in range(1000):
        race.update(reference=False, candidate=True)
    assert race.lost
