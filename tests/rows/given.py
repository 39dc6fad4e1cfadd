"""What policies must be given that have no default for a field: files and the like."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golden.filters import draw_filter
from joint.layers import layer_file
from safetensors.torch import save_file

if TYPE_CHECKING:
    from dllmc.policies._base import Policy

WIDEST = 48  # positions of a block that are ever drawn
_FOLDER = tempfile.TemporaryDirectory()  # removed when the tests end


def given(kind: type[Policy]) -> dict[str, Any]:
    """The fields that `kind` has no default for; a new one needs a line here."""
    fields = kind.model_fields
    required = {name for name, field in fields.items() if field.is_required()}
    found = {"score.learned_filter": _filter, "verify.joint_sampler": _layer}
    values = found[f"{kind.axis}.{fields['kind'].default}"]() if required else {}
    assert values.keys() == required
    return values


def made(kind: type[Policy], **fields: Any) -> Policy:
    """A policy with these fields, and what must be given."""
    return kind(**(given(kind) | fields))


@functools.cache
def _filter() -> dict[str, Any]:
    path = Path(_FOLDER.name) / "filter.safetensors"
    save_file(draw_filter(WIDEST, 7), path)
    return {"path": str(path)}


def _layer() -> dict[str, Any]:
    return {"path": layer_file()}
