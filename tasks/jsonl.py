"""Tasks of the user's own, read from a JSONL file."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Final, cast

from dllmc.spec import TaskError, nearest
from dllmc.tasks import metrics
from dllmc.tasks._base import SPLITS, Sample, Split, Task, check_request, split_of

_KEYS = ("prompt", "reference", "metric", "split")
# Characters of a wrong value that an error shows.
_SHOWN = 60
# Nothing is trained on a user's file, and confirming needs the most prompts.
_SHARES: Final[dict[Split, int]] = {"tune": 40, "confirm": 50, "test": 10}


class JsonlTask(Task):
    """A task read from a file of one JSON object per line; empty lines are skipped.

    The keys of a line:

    - `prompt`: text; no two lines may have the same.
    - `reference`: the right answer: text; a list of texts for `one-of`; a number or its text for
      `numeric`; any JSON object or list, or JSON text, for `json-equal`.
    - `metric` (optional): `exact` (the default), `one-of`, `numeric`, `regex` or `json-equal`;
      see `dllmc.tasks.metrics.judge_of`.
    - `split` (optional): `train`, `tune`, `confirm` or `test`. Left out, a hash of the prompt
      decides: 40 % of the prompts tune, 50 % confirm, 10 % test, so that adding a line never
      moves another.

    The task is called as the file is, `mine.jsonl`.

    Args:
        path: The file.
        max_new_tokens: Length of the response to decode.

    Raises:
        TaskError: The file is missing, empty or not UTF-8, or a line is wrong; the message names
            the line.
    """

    kind = "user"

    def __init__(self, path: str | Path, *, max_new_tokens: int = 32) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self.max_new_tokens = max_new_tokens
        self._samples = _read(self.path)

    def samples(self, split: Split, count: int, seed: int = 0) -> list[Sample]:
        check_request(split, count)
        mine = [sample for sample, of in self._samples if of == split]
        if not mine:
            sizes = Counter(of for _, of in self._samples)
            held = ", ".join(f"{sizes[name]} {name}" for name in SPLITS)
            raise TaskError(
                f"{self.path} has no prompts in split `{split}` ({held}); "
                f'add lines, or "split": "{split}" to some'
            )
        random.Random(f"{split}/{seed}").shuffle(mine)
        return mine[:count]


def _read(path: Path) -> list[tuple[Sample, Split]]:
    found: list[tuple[Sample, Split]] = []
    lines: dict[str, int] = {}
    try:
        # Lines end at line feeds only: str.splitlines would also cut at U+2028 inside a text.
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    sample, split = _parse(line)
                    if sample.prompt in lines:
                        raise TaskError(
                            f"prompt {sample.prompt!r} stands on line {lines[sample.prompt]} "
                            "already; delete one"
                        )
                except TaskError as error:
                    raise TaskError(f"{path}, line {number}: {error}") from error
                lines[sample.prompt] = number
                found.append((sample, split))
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text ({error.reason}); convert it") from error
    except OSError as error:
        raise TaskError(
            f"cannot read the task file {path} ({error.strerror}); check the path"
        ) from error
    if not found:
        raise TaskError(
            f'{path} holds no prompts; write one {{"prompt": ..., "reference": ...}} per line'
        )
    return found


def _parse(line: str) -> tuple[Sample, Split]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{_short(line.strip())} is not JSON ({error}); correct it") from error
    if not isinstance(fields, dict):
        raise TaskError(f"{_short(line.strip())} is not a JSON object; write {{...}}")
    for key in fields:
        if key not in _KEYS:
            raise TaskError(f"unknown key `{key}`; {nearest(key, _KEYS)}")
    for key in ("prompt", "reference"):
        if key not in fields:
            raise TaskError(f"`{key}` is missing; add it")
    prompt, metric, split = fields["prompt"], fields.get("metric", "exact"), fields.get("split")
    if not isinstance(prompt, str) or not prompt.strip():
        raise TaskError(f"`prompt` is {_short(json.dumps(prompt))}; give a text that is not empty")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in prompt):
        raise TaskError(f"`prompt` {prompt!r} has half a surrogate pair; remove it")
    if not isinstance(metric, str):
        raise TaskError(f"`metric` is {json.dumps(metric)}; {nearest('', metrics.METRICS)}")
    if split is not None and split not in SPLITS:
        raise TaskError(f"`split` is {json.dumps(split)}; {nearest(str(split), SPLITS)}")
    reference = _reference(metric, fields["reference"])
    metrics.judge_of(metric, reference)
    return Sample(prompt, reference, metric), cast("Split", split or split_of(prompt, _SHARES))


def _reference(metric: str, value: object) -> metrics.Reference:
    match value:
        case str():
            return value
        case int() | float() if metric == "numeric" and not isinstance(value, bool):
            return repr(value)
        case dict() | list() if metric == "json-equal":
            return json.dumps(value)
        case list() if all(isinstance(item, str) for item in value):
            return tuple(value)
        case _:
            raise TaskError(f"`reference` is {_short(json.dumps(value))}; `{metric}` needs a text")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
