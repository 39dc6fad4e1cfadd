from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from golden.filters import draw_filter
from rows.made import MASK, SPEC, predictions, rows
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.config import DecodingConfig
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.score.learned_filter import _NAMES, LearnedFilter
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 6
PROGRESS = BlockProgress(step=0, masks=WIDTH, blocks=1, length=WIDTH)
TAILS = [0.02, 1.5, 0.4, 7.0, 0.0, 0.1]


WEIGHTS = draw_filter(WIDTH, 5)


@pytest.fixture
def policy(tmp_path: Path) -> LearnedFilter:
    path = tmp_path / "filter.safetensors"
    save_file(WEIGHTS, path)
    return LearnedFilter(path=str(path))


def probabilities(tails: list[float]) -> torch.Tensor:
    weights = {name: tensor.double() for name, tensor in WEIGHTS.items()}
    x = torch.zeros(WIDTH).double()
    x[: len(tails)] = torch.tensor([1 / (1 + tail) for tail in tails])
    hidden = (weights["linear1.weight"] @ x + weights["linear1.bias"]).relu()
    return (weights["linear2.weight"] @ hidden + weights["linear2.bias"]).sigmoid()


@pytest.mark.parametrize("length", [1, 4, WIDTH])
def test_doubt_is_the_odds_against_what_the_network_says(
    policy: LearnedFilter, length: int
) -> None:
    tails = TAILS[:length]
    expected = [(1 / p - 1).item() for p in probabilities(tails)[:length]]
    judged = policy.judge(rows(torch.tensor([tails]).double()), {})
    assert judged.doubt[0].tolist() == pytest.approx(expected)
    progress = BlockProgress(step=0, masks=length, blocks=1, length=length)
    asked = policy.oracle(predictions(tails), progress, {})
    assert [row.doubt for row in asked] == pytest.approx(expected)


def test_padding_counts_as_nothing(policy: LearnedFilter) -> None:
    # Beside a longer neighbour, and in a plan that is wider than the network.
    short = policy.judge(rows([TAILS[:3]]), {}).doubt[0]
    offered = torch.tensor([[True] * 3 + [False] * 5])
    padded = rows([TAILS[:3] + [0.5] * 5], offered=offered)
    assert torch.equal(policy.judge(padded, {}).doubt[0, :3], short)


def test_committed_rows_are_seen_too(policy: LearnedFilter) -> None:
    tokens = torch.tensor([[MASK, 1, MASK, MASK, 2, MASK]])
    some = policy.judge(rows([TAILS], tokens=tokens), {})
    assert torch.equal(some.doubt, policy.judge(rows([TAILS]), {}).doubt)


def test_where_nothing_passes_the_most_probable_commits(policy: LearnedFilter) -> None:
    # Position 4 is the most probable; the network is never as sure as .999.
    threshold = Threshold(threshold=0.999)
    judged = policy.judge(rows([TAILS]), {})
    assert judged.doubt.argmin() != 4
    values = {"doubt": torch.tensor([threshold.values(PROGRESS)["doubt"]])}
    assert commit_rows(threshold, judged, values)[0].nonzero().tolist() == [[4]]
    asked = policy.oracle(predictions(TAILS), PROGRESS, {})
    assert commit_oracle(threshold, asked, PROGRESS) == {4}


def test_it_never_waits_for_the_device(policy: LearnedFilter) -> None:
    made = rows([TAILS])
    policy.judge(made, {})  # reads the file
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert policy.judge(rows(torch.rand(2, WIDTH)), {}).doubt.shape == (2, WIDTH)


def test_a_block_that_is_longer_than_the_network_is_refused(policy: LearnedFilter) -> None:
    longer = BlockProgress(step=0, masks=8, blocks=1, length=8)
    for ask in (lambda: policy.values(longer), lambda: policy.oracle([], longer, {})):
        with pytest.raises(ConfigError, match=r"a filter of 6 positions, and a block has 8; use"):
            ask()


def test_a_file_that_is_no_such_network_is_refused_by_name(tmp_path: Path) -> None:
    missing = LearnedFilter(path=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"`score\.path`='.*none' cannot be read"):
        missing.check_model(SPEC)
    other = tmp_path / "other.safetensors"
    for weights in ({_NAMES[0]: torch.zeros(3)}, {_NAMES[0]: torch.zeros(3, 3)}):
        save_file(weights, other)
        with pytest.raises(
            ConfigError, match=r"is no filter: its tensors are \{'linear1\.weight'"
        ):
            LearnedFilter(path=str(other)).check_model(SPEC)
    other.write_text("no tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        LearnedFilter(path=str(other)).check_model(SPEC)


def test_caches_that_leave_out_committed_rows_are_refused() -> None:
    for cache in ("dkv", "partial"):
        with pytest.raises(ConfigError, match="do not go together"):
            DecodingConfig(score=LearnedFilter(path="any"), cache={"kind": cache})
    DecodingConfig(score=LearnedFilter(path="any"), cache={"kind": "dual"})


def test_it_has_no_default_file() -> None:
    with pytest.raises(ConfigError, match=r"`score\.path`"):
        DecodingConfig(score={"kind": "learned_filter"})


def test_filters_of_two_files_are_not_evaluated_together(policy: LearnedFilter) -> None:
    assert policy.structure() != LearnedFilter(path="another").structure()
    assert policy.structure() == LearnedFilter(path=policy.path).structure()


def test_a_file_that_is_written_anew_is_read_anew(policy: LearnedFilter) -> None:
    before, structure = policy.judge(rows([TAILS]), {}).doubt, policy.structure()
    save_file(draw_filter(WIDTH, 6), policy.path)
    os.utime(policy.path, ns=(1, 1))  # clocks of files are coarse
    after = policy.judge(rows([TAILS]), {}).doubt
    assert not torch.allclose(before, after)
    asked = policy.oracle(predictions(TAILS), PROGRESS, {})
    assert after[0].tolist() == pytest.approx([row.doubt for row in asked], rel=1e-5)
    assert policy.structure() != structure
