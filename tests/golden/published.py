"""Published decodes of other systems than Fast-dLLM v1's LLaDA, and the models they are of.

The files hold what `benchmarks/parity/decode_*.py` recorded: settings by the published names and
what the published loops returned. Here they become checkpoints in the published layout and
decoding configurations.
"""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from golden import caches, commits, views
from golden.case import Case, case_of, config_of
from golden.drawing import draw
from safetensors.torch import save_file

from dllmc.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from dllmc.models import LoadedModel

FOLDER = Path(__file__).parent
SYSTEMS = (
    *("dream", "llada_moe", "sdar", "llada2", "llada21", "fast_dllm_v2"),
    *commits.TRANSLATIONS,
    *caches.TRANSLATIONS,
    *views.TRANSLATIONS,
)


@functools.cache
def stored(system: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{system}.json").read_text())
    return content


@functools.cache
def model(system: str, number: int, keys: tuple[tuple[str, Any], ...] = ()) -> LoadedModel:
    """A model of the file, through a checkpoint as it is published."""
    kept = stored(system)["models"][number]
    drawn = {key: value for key, value in kept.items() if key not in ("keys", "probe", "tensors")}
    weights = draw(kept["tensors"], kept["keys"]["mask_token_id"], **drawn)
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(kept["keys"] | dict(keys)))
        loaded = load_checkpoint(folder)
        state = loaded.module.state_dict()
        loaded.module.load_state_dict({name: t.clone() for name, t in state.items()}, assign=True)
    spec = loaded.spec
    if system in ("d2f", "d2f_eos"):  # as its adapters make of LLaDA
        spec = spec.model_copy(
            update={
                "attention": "block_causal",
                "block_length": dict(keys).get("block_size", 32),
                "blocks_from": "response",
            }
        )
    return replace(loaded, spec=spec, name=f"{system}-{number}", source=None)


def probe(system: str, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a short input by our model and by the published one."""
    kept = stored(system)["models"][number]["probe"]
    with torch.no_grad():
        logits = model(system, number).module(torch.tensor([kept["tokens"]]))
    return logits[0, -1, : len(kept["logits"])], torch.tensor(kept["logits"])


@functools.cache
def cases(system: str) -> tuple[Case, ...]:
    told = stored(system)["cases"]
    return tuple(TRANSLATIONS[system](number, case) for number, case in enumerate(told))


def ways(system: str) -> list[str]:
    """Kinds of decode that there is a policy for."""
    return sorted({case.way for case in cases(system) if case.config is not None})


def of_way(system: str, way: str) -> list[Case]:
    return [case for case in cases(system) if case.way == way]


def _dream(number: int, told: dict[str, Any]) -> Case:
    """The full pass at a block's start commits the block's first token alone."""
    way, config = f"{told['cache']}, {told['alg']}", None
    if told["cache"] != "none":
        commit = {"kind": "threshold", "threshold": told["threshold"]}
        config = config_of(told["block_length"], commit, told["cache"])
    elif told["alg"] in commits.ORDERS:
        commit = {"kind": "timesteps", "steps": told["steps"]}
        score = {"kind": commits.ORDERS[told["alg"]]}
        config = config_of(told["gen_length"], commit, score=score)
    else:
        commit = {
            "kind": "paced_threshold",
            "threshold": told["threshold"],
            "steps": told["steps"],
        }
        config = config_of(told["gen_length"], commit)
    return case_of("dream", number, told, way=way, config=config)


def _llada_moe(number: int, told: dict[str, Any]) -> Case:
    if "threshold" in told:
        commit = {"kind": "threshold", "threshold": told["threshold"]}
    else:
        commit = {"kind": "quota", "steps": told["steps"]}
    config = config_of(told["block_length"], commit)
    return case_of("llada_moe", number, told, way=commit["kind"], config=config)


def _sdar(number: int, told: dict[str, Any]) -> Case:
    """The published loop also evaluates the last block for the cache, which nobody reads.

    It looks for a token that ends the response when a block is finished; what the canvas holds
    behind that token is not part of the response.
    """
    rule, config = told["remasking_strategy"], None
    keys = [("block_size", told["block_length"])]
    tokens, nfe, stop = told["tokens"][: told["gen_length"]], told["nfe"] - 1, "length"
    if "stopping_criteria_idx" in told:
        (end,) = told["stopping_criteria_idx"]
        keys += [("eos_token_id", end)]
        tokens, nfe, stop = tokens[: tokens.index(end) + 1], None, "eos"
    if rule != "sequential":
        # No probability exceeds 1, so that the quota alone decides.
        threshold = told.get("confidence_threshold", 1.0)
        steps = told["denoising_steps"]
        commit = {"kind": "dynamic", "threshold": threshold, "steps": steps}
        config = config_of(told["block_length"], commit, "block_causal", stop=stop)
    way = f"{rule} until {stop}"
    own = {"keys": tuple(keys), "way": way, "config": config, "tokens": tokens, "nfe": nfe}
    return case_of("sdar", number, told, **own)


def _llada2(number: int, told: dict[str, Any], system: str = "llada2") -> Case:
    """The published loops have no cache.

    At a token that ends the response they look less often than ours, which may stop earlier.
    """
    keys = [("block_size", told["block_length"])]
    stop = "eos" if "eos_id" in told else "length"
    keys += [("eos_token_id", told["eos_id"])] if stop == "eos" else []
    commit = {"kind": "dynamic", "threshold": told["threshold"], "steps": told.get("steps")}
    others = {}
    if system == "llada21":
        threshold, steps = told["editing_threshold"], told["max_post_steps"]
        others = {"revise": {"kind": "edit", "threshold": threshold, "steps": steps}}
    return case_of(
        system,
        number,
        told,
        keys=tuple(keys),
        way=f"until {stop}",
        config=config_of(told["block_length"], commit, stop=stop, **others),
        nfe=None if stop == "eos" else told["nfe"],
    )


def _fast_dllm_v2(number: int, told: dict[str, Any]) -> Case:
    """The published loops also evaluate the last block, and so return one token of the next."""
    cached, loop = told["use_block_cache"], told.get("loop", "batch_sample")
    keys = [("bd_size", told["block_size"])]
    tokens, nfe, stop = told["tokens"][:-1], told["nfe"] - 1, "length"
    if "stop_token" in told:
        keys += [("eos_token_id", told["stop_token"])]
        tokens, nfe, stop = told["tokens"], told["nfe"], "eos"
    commit = {"kind": "threshold", "threshold": told["threshold"]}
    cache = {"kind": "block_causal", "within": "sub_block" if cached else "block"}
    return case_of(
        "fast_dllm_v2",
        number,
        told,
        keys=tuple(keys),
        way=f"{loop}, {'block cache' if cached else 'whole block'}, until {stop}",
        config=config_of(told["small_block_size"], commit, cache, stop=stop),
        tokens=tokens,
        nfe=nfe,
    )


TRANSLATIONS: dict[str, Callable[[int, dict[str, Any]], Case]] = {
    "dream": _dream,
    "llada_moe": _llada_moe,
    "sdar": _sdar,
    "llada2": _llada2,
    "llada21": functools.partial(_llada2, system="llada21"),
    "fast_dllm_v2": _fast_dllm_v2,
    **commits.TRANSLATIONS,
    **caches.TRANSLATIONS,
    **views.TRANSLATIONS,
}
