from __future__ import annotations

import pytest

from dllmc.cli._config import describe, read_config
from dllmc.policies.config import QUALITY_REFERENCE, SAFE, SPEED_BASELINE, DecodingConfig


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (QUALITY_REFERENCE, "quota, cache none, blocks 32"),
        (SPEED_BASELINE, "threshold 0.9, dual, blocks 32"),
        (
            DecodingConfig(
                commit={"kind": "factor", "factor": 0.6095655928507377},
                cache={"kind": "prefix", "refresh_every": 4},
                stop={"kind": "length"},
                temperature=0.7,
            ),
            "factor 0.61, prefix refresh_every=4, blocks 32, length, temperature 0.7",
        ),
    ],
)
def test_a_configuration_is_described_in_a_line(config: DecodingConfig, said: str) -> None:
    assert describe(config) == said


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("auto", None),
        ("quality-reference", QUALITY_REFERENCE),
        ("SAFE", SAFE),
        (" {}", SPEED_BASELINE),
    ],
)
def test_a_configuration_is_a_word_or_json(text: str, config: DecodingConfig | None) -> None:
    assert read_config(text) == config
