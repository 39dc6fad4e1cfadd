"""The published systems as configurations, at their published defaults.

Those that need no weights of their own. Where a system decodes in blocks, these are of 8 tokens:
the embedded model's responses have 32, and published ones 128 to 1,024 in blocks of 32. What is
not said decodes as LLaDA does: one token per evaluation, the most probable first, no cache, until
the end of the response.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK, LENGTH = 8, 32
BLOCKS = {"kind": "blocks", "block_length": BLOCK}
# Published are line breaks; the embedded model has none, and its records and sentences are parted
# by the others.
DELIMITERS = (",", " ,", ":", " :", ";", " ;", "\n", "Ċ")

REFERENCE, BASELINE = "LLaDA", "Fast-dLLM, dual cache"
"""What quality is compared with, and what speed is: those of dllmc in blocks of 8."""


@dataclass(frozen=True)
class Strategy:
    """One published system.

    Attributes:
        name: How it is called in results.
        paper: Its number on arXiv.
        fields: What differs from one token per evaluation, by axis.
        auxiliary: Whether it asks the autoregressive model too.
    """

    name: str
    paper: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: bool = False

    def config(self, tokens: Mapping[str, int], length: int = LENGTH) -> DecodingConfig:
        """The configuration for a vocabulary and a length of responses.

        Args:
            tokens: Ids by text, of which delimiters are taken.
            length: Of the response; where evaluations are counted, these are in proportion.

        Raises:
            ConfigError: It needs delimiters, and the vocabulary has none.
        """
        fields = {"schedule": BLOCKS, **self.fields}
        if fields["schedule"]["kind"] == "adablock":
            ids = tuple(tokens[text] for text in DELIMITERS if text in tokens)
            if not ids:
                raise ConfigError("the tokenizer has no delimiters that could end a block")
            fields["schedule"] = {**fields["schedule"], "delimiters": ids}
        if "steps" in fields.get("commit", ()):
            steps = max(1, fields["commit"]["steps"] * length // LENGTH)
            fields["commit"] = {**fields["commit"], "steps": steps}
        return QUALITY_REFERENCE.replace(**fields)


def _kind(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **fields}


_SURE = {"commit": _kind("threshold", threshold=0.9)}
_DUAL, _PREFIX = {"cache": _kind("dual")}, {"cache": _kind("prefix")}
_ENTROPY = {"score": _kind("entropy")}
_ADAPTIVE = {"schedule": _kind("adablock", block_length=BLOCK, threshold=0.3, lookahead=0.25)}
_TARGET = {"verify": _kind("specdiff")}
_DRAFTS = {form: {"verify": _kind("self_speculation", form=form)} for form in ("batch", "tree")}

STRATEGIES = (
    Strategy(REFERENCE, "2502.09992"),
    Strategy("LLaDA, half the steps", "2502.09992", {"commit": _kind("quota", steps=16)}),
    Strategy("LLaDA, random order", "2502.09992", {"score": _kind("random")}),
    Strategy("Dream, margin", "2508.15487", {"score": _kind("margin")}),
    Strategy("Dream, entropy", "2508.15487", _ENTROPY),
    Strategy("Fast-dLLM, no cache", "2505.22618", _SURE),
    Strategy("Fast-dLLM, prefix cache", "2505.22618", _SURE | _PREFIX),
    Strategy(BASELINE, "2505.22618", _SURE | _DUAL),
    Strategy("Fast-dLLM, factor", "2505.22618", {"commit": _kind("factor")} | _DUAL),
    Strategy("EB-Sampler", "2505.24857", _ENTROPY | {"commit": _kind("entropy_bound")}),
    Strategy("dParallel's entropy", "2509.26488", _ENTROPY | {"commit": _kind("entropy")}),
    Strategy("LocalLeap", "2510.07081", {"commit": _kind("local_leap")}),
    Strategy("CreditDecoding", "2510.06133", _SURE | {"score": _kind("credit")}),
    Strategy("Learn2PD's EoTP", "2509.25188", _SURE | _DUAL | {"stop": _kind("eot")}),
    Strategy("AdaBlock", "2509.26432", _SURE | _DUAL | _ADAPTIVE),
    Strategy("dKV-Cache-Decode", "2505.15781", {"cache": _kind("dkv", counts="steps")}),
    Strategy("dKV-Cache-PD", "2505.15781", {"cache": _kind("dkv", counts="steps", prompt="once")}),
    Strategy(
        "dKV-Cache-Greedy",
        "2505.15781",
        {"score": _kind("order"), "cache": _kind("dkv_greedy")},
    ),
    Strategy("Sparse-dLLM", "2508.02558", {"cache": _kind("sparse")}),
    Strategy("ReCAP", "2505.19089", {"cache": _kind("partial")}),
    Strategy("dInfer, vicinity", "2510.08666", _SURE | {"cache": _kind("vicinity")}),
    Strategy("dInfer, hierarchy", "2510.08666", _DUAL | {"commit": _kind("hierarchy")}),
    Strategy(
        "dInfer, smoothing",
        "2510.08666",
        {"belief": _kind("smoothing"), "commit": _kind("annealed_threshold")},
    ),
    Strategy("LRD", "2510.11052", _ENTROPY | {"belief": _kind("lrd"), "stop": _kind("kl")}),
    Strategy("SSD, batch", "2510.04147", _DRAFTS["batch"]),
    Strategy("SSD, tree", "2510.04147", _DRAFTS["tree"]),
    Strategy("SSD, batch, dual cache", "2510.04147", _DRAFTS["batch"] | _DUAL),
    Strategy("ReMDM", "2503.00307", {"revise": _kind("remask")}),
    Strategy("HDLM's correction", "2504.06416", {"revise": _kind("remask", how="resample")}),
    Strategy(
        "APD",
        "2506.00413",
        {
            "schedule": _kind("lookahead", length=32),
            "commit": _kind("leftmost"),
            "cache": _kind("trailing"),
            "verify": _kind("apd"),
        },
        auxiliary=True,
    ),
    Strategy(
        "SpecDiff", "2408.05636", _SURE | _DUAL | {"verify": _kind("specdiff")}, auxiliary=True
    ),
)
"""In the order in which they are measured and shown."""
