"""Strides decide what stepwise decoding decides, in the same steps, whatever the host foresees.

Stepwise decoding is compared with the reference in `test_lockstep.py`.
"""

from __future__ import annotations

from dllmc.policies.config import DecodingConfig

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
BLOCKS = {"kind": "blocks", "block_length": 8}
QUOTA = DecodingConfig(schedule=BLOCKS, commit={"kind": "quota"}, cache={"kind": "dual"})
