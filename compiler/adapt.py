"""Any module whose forward makes logits of tokens, as a plain denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dllmc.compiler._adapter import Adapter, CallPlan, Example, plan_call, tile
from dllmc.compiler._infer_spec import complete_spec
from dllmc.compiler._source import place_of_error
from dllmc.compiler._state import evaluating, unchanged
from dllmc.compiler.capture import BATCH, LENGTH
from dllmc.models import LoadedModel
from dllmc.spec import CaptureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dllmc.spec import DenoiserSpec


def adapt(
    module: nn.Module,
    spec: DenoiserSpec | Mapping[str, Any] | None = None,
    example: Example = None,
) -> LoadedModel:
    """A plain denoiser, tokens `[B, T]` -> logits `[B, T, V]`, over `module`, with its spec.

    The module is run once, on the example's tokens repeated to batch 3 and length 7.

    Args:
        module: Its forward takes token ids, and returns logits, an object or mapping with
            `logits`, or a tuple with them. It is not changed.
        spec: Of the denoiser; or those of its fields that the module's `config` does not tell.
        example: Token ids `[B, T]`, or a mapping or tuple of arguments of which `input_ids` or the
            first are the tokens; the others are the same at every call. Parameters called
            `use_cache` and `return_dict` are given without being asked for.

    Raises:
        CaptureError: The module fails on the example, returns no logits, or has weights of
            several dtypes or devices.
        UsageError: `module` is none, the example does not fit the forward, or the spec lacks a
            field or does not fit the logits.
    """
    module = getattr(module, "_orig_mod", module)
    _check_kind(module)
    name = type(module).__name__
    check_weights(module)
    plan, tokens = plan_call(module, example)
    width = (
        spec.get("vocab_size") if isinstance(spec, Mapping) else getattr(spec, "vocab_size", None)
    )
    logits, wrapped = _run(module, plan, tile(tokens, BATCH, LENGTH), width)
    if logits.dim() != 3 or logits.shape[:2] != (BATCH, LENGTH) or not logits.is_floating_point():
        raise CaptureError(
            f"the forward of {name} makes {logits.dtype} of shape {list(logits.shape)} of "
            f"{BATCH} x {LENGTH} tokens; it must make logits [{BATCH}, {LENGTH}, vocabulary]"
        )
    found = complete_spec(module, spec, logits.shape[2])
    if not plan.plain or wrapped:
        module = Adapter(module, plan, found.vocab_size)
    return LoadedModel(module, found, None, name, None, {})


def _check_kind(module: object) -> None:
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            f"`{kind}` is a TorchScript module, which torch.export does not take; give the Python "
            "module that it was made of"
        )
    if not isinstance(module, nn.Module):
        raise UsageError(f"`{kind}` is no torch module; give one, or a model's name or path")


def check_weights(module: nn.Module) -> str:
    """The one dtype of the weights, such as `float32`.

    Raises:
        CaptureError: There are several dtypes or devices, each named with a weight that has it;
            or there are no weights.
    """
    weights = [(n, p) for n, p in module.named_parameters() if p.is_floating_point()]
    kinds = _one_of_each((str(p.dtype), n) for n, p in weights)
    if len(kinds) != 1:
        raise CaptureError(
            f"the weights have the dtypes {_listed(kinds)}; convert them to one with "
            "`module.to(dtype)`"
        )
    tensors = [*module.named_parameters(), *module.named_buffers()]
    devices = _one_of_each((str(t.device), n) for n, t in tensors)
    if "meta" in devices:
        raise CaptureError(
            f"`{devices['meta']}` is on the device `meta` and has no content; load the weights"
        )
    if len(devices) > 1:
        raise CaptureError(
            f"the weights are on {_listed(devices)}; move them to one with `module.to(device)`"
        )
    return next(iter(kinds)).removeprefix("torch.")


def _run(
    module: nn.Module, plan: CallPlan, tokens: Tensor, width: int | None
) -> tuple[Tensor, bool]:
    """Logits, and whether they had to be taken out of something."""
    tokens = tokens.to(next(module.parameters()).device)
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
    with evaluating(module), unchanged(module):
        try:
            logits = Adapter(module, plan, width)(tokens)
        except CaptureError:
            raise
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CaptureError(
                f"{type(module).__name__} fails on the example: {type(error).__name__}: {said}"
                f"{place_of_error(error)}"
            ) from error
        finally:
            handle.remove()
    return logits, not isinstance(outputs[-1], Tensor)


def _one_of_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A name for each kind."""
    return dict(reversed(list(pairs)))


def _listed(kinds: Mapping[str, str]) -> str:
    named = [f"{kind} (`{name}`)" for kind, name in sorted(kinds.items())]
    return ", ".join(named) or "none"
