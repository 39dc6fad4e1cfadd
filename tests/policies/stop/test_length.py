from __future__ import annotations

import torch

from dllmc.policies.stop.length import LengthStop

MASK, EOS = 0, 8


def test_finished_when_no_mask_is_left_whatever_the_tokens() -> None:
    responses = [[1, EOS, MASK], [EOS, MASK, 2], [1, EOS, 2]]
    finished = LengthStop().finished(torch.tensor(responses), MASK, torch.tensor([EOS]))
    assert finished.tolist() == [False, False, True]
    assert [LengthStop().oracle(row, MASK, [EOS]) for row in responses] == [False, False, True]
