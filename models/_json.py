"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = "the file is damaged; copy or download it again"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that `path` holds.

    Raises:
        CheckpointError: It holds none, or cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); {DAMAGED}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; {DAMAGED}")
    return value
