"""Decode prompts with an artifact: `python examples/generate.py model.dllm "copy: a b"`."""

from __future__ import annotations

import sys

import dllmc

engine = dllmc.load(sys.argv[1])
for prompt in sys.argv[2:]:
    out = engine.generate(prompt)
    print(f"{out.text}  ({out.nfe} evaluations, {out.match})")
