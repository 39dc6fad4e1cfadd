"""A compiled model in memory: what an artifact holds, however it came about."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dllmc.artifact.graph import graph_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch.fx import GraphModule

    from dllmc.artifact.binaries import Binaries
    from dllmc.artifact.chat import ChatTemplate
    from dllmc.artifact.engines import Engines
    from dllmc.artifact.exports import Exports
    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True)
class Package:
    """Everything the runtime needs; nothing of the compiler or of the model's code.

    Attributes:
        name: Of the model.
        spec: Of the denoiser.
        dtype: Of weights and activations, as torch spells it.
        precision: What weights were rounded to beyond what the model came in, such as `int8`; None
            if nothing was.
        backend: How steps run: `eager`, `inductor`, `aot`, `onnxruntime` or
            `tensorrt`.
        graphs: The lowered step by statistics set, `greedy` and `sampled`. Inputs by name:
            `tokens`, `positions`, `slots` `[B, W]`, `head_rows` `[B, R]`, `key_limit` `[B]`,
            `keys_i` and `values_i` `[B, G, S, D]`; `sampled` adds `temperature`, `seed`,
            `stream` and `nfe` `[B]`. Each returns candidate ids, logits and tail masses.
        weights_sha256: Hash of the weights' names and contents.
        tokenizer: Or None: then only token ids go in.
        chat: Or None: then conversations must be written as text.
        report: What each pass did, as JSON values.
        records: Tuning records that ship with the model, as JSON values.
        notices: Licence notes that travel with the weights.
        binaries: Ahead-of-time programs, or None.
        exports: Programs for ONNX runtimes, or None.
        engines: TensorRT engines, or None.
    """

    name: str
    spec: DenoiserSpec
    dtype: str
    backend: str
    graphs: dict[str, GraphModule]
    weights_sha256: str
    tokenizer: Tokenizer | None = None
    chat: ChatTemplate | None = None
    report: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notices: str = ""
    binaries: Binaries | None = None
    exports: Exports | None = None
    engines: Engines | None = None
    precision: str | None = None

    @functools.cached_property
    def graph_sha256(self) -> str:
        """Hash of what the graphs compute."""
        return graph_digest(self.graphs)

    @functools.cached_property
    def passes_sha256(self) -> str:
        """Hash of which passes made them, and how often each matched; not of those left out."""
        ran = [entry for entry in self.report if entry.get("skipped_because") != "disabled"]
        passes = [[entry.get("name"), entry.get("matched")] for entry in ran]
        return hashlib.sha256(json.dumps(passes).encode()).hexdigest()
