"""What a task is: prompts with references, split without overlap, and a rule for answers."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from dllmc.spec import TaskError, nearest
from dllmc.tasks import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

Split = Literal["train", "tune", "confirm", "test"]
Kind = Literal["independent", "dependent", "stepwise", "structured", "user"]

SPLITS: Final[tuple[Split, ...]] = get_args(Split)
# Shares of the prompt space, in percent. Generator tasks size their confirm split from measured
# discordance, up to 8,192 prompts, hence 12 % for it.
_SHARES: Final[Mapping[Split, int]] = {"train": 70, "tune": 8, "confirm": 12, "test": 10}
# Draws without a new prompt after which a split is taken to be exhausted: a tune split (8 %) of
# which a fortieth is still to be found passes for exhausted once in 20,000 times.
_FRUITLESS_DRAWS = 5000

VALID_ANSWER: Final = "valid-answer"
"""What `Sample.metric` says where several answers are right and the task itself judges them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and what is right for it.

    Attributes:
        prompt: The text given to the model.
        reference: A right answer, or all of them as a tuple where `metric` is `one-of`.
        metric: Name of a metric of `dllmc.tasks.metrics`, or `valid-answer`.
    """

    prompt: str
    reference: metrics.Reference
    metric: str = "exact"


class Task(ABC):
    """Prompts and the judgement of answers.

    Attributes:
        name: What the command line, records and `get_task` call it.
        kind: How its answer tokens depend on one another.
        max_new_tokens: Length of the response to decode.
    """

    name: str
    kind: Kind
    max_new_tokens: int = 32

    @abstractmethod
    def samples(self, split: Split, count: int, seed: int = 0) -> list[Sample]:
        """Samples of `split`, no two with the same prompt, the same for the same seed.

        Args:
            split: The part of the prompts to take from; splits never share a prompt.
            count: How many; fewer come back where the split has no more.
            seed: Which of the split's samples, and in which order.

        Raises:
            TaskError: The split does not exist or holds no samples, or `count` is under one.
        """

    def score(self, sample: Sample, answer: str) -> bool:
        """Whether `answer` is right for `sample`.

        Raises:
            TaskError: The sample's metric does not exist or does not take its reference.
        """
        return metrics.score(sample.metric, sample.reference, answer)


class GeneratorTask(Task):
    """A task whose prompts are drawn at random.

    The split of a prompt is a function of its text, so that no two splits share a prompt
    whatever the seeds.
    """

    @abstractmethod
    def draw(self, rng: random.Random) -> Sample:
        """One sample of any split; its reference is a text."""

    def samples(self, split: Split, count: int, seed: int = 0) -> list[Sample]:
        check_request(split, count)
        rng = random.Random(f"{self.name}/{split}/{seed}")
        found: dict[str, Sample] = {}
        fruitless = 0
        while len(found) < count and fruitless < _FRUITLESS_DRAWS:
            sample = self.draw(rng)
            if sample.prompt not in found and split_of(sample.prompt) == split:
                found[sample.prompt] = sample
                fruitless = 0
            else:
                fruitless += 1
        return list(found.values())


def check_request(split: str, count: int) -> None:
    """Refuse what no task has.

    Raises:
        TaskError: The split does not exist, or `count` is under one.
    """
    if split not in SPLITS:
        raise TaskError(f"`{split}` is not a split; {nearest(split, SPLITS)}")
    if count < 1:
        raise TaskError(f"a count of {count} samples is none; ask for one or more")


def split_of(prompt: str, shares: Mapping[Split, int] = _SHARES) -> Split:
    """The one split that `prompt` belongs to, where splits have `shares` in percent."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    point = int.from_bytes(digest) % 100
    for split, share in shares.items():
        if point < share:
            return split
        point -= share
    raise AssertionError("shares sum to 100")
