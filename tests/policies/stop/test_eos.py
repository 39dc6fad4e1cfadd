from __future__ import annotations

import pytest
import torch

from dllmc.policies.stop.eos import EosStop

MASK, EOS, OTHER_EOS = 0, 8, 9


@pytest.mark.parametrize(
    ("response", "finished"),
    [
        ([1, EOS, MASK], True),
        ([EOS, MASK, MASK], True),
        ([1, OTHER_EOS, MASK], True),
        ([MASK, EOS, 1], False),
        ([1, MASK, EOS], False),
        ([1, 2, MASK], False),
        ([1, 2, 3], True),
        ([1, 2, EOS], True),
    ],
)
def test_finished_at_an_end_token_with_no_mask_before_it(
    response: list[int], finished: bool
) -> None:
    eos_ids = [EOS, OTHER_EOS]
    assert EosStop().oracle(response, MASK, eos_ids) is finished
    rows = EosStop().finished(torch.tensor([response]), MASK, torch.tensor(eos_ids))
    assert rows.tolist() == [finished]


def test_without_end_tokens_only_a_full_response_is_finished() -> None:
    responses = torch.tensor([[1, MASK], [1, 2]])
    none = torch.tensor([], dtype=torch.int64)
    assert EosStop().finished(responses, MASK, none).tolist() == [False, True]
