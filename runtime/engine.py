"""The engine: prompts in, responses out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from dllmc import kernels
from dllmc.artifact import Messages, Package, load_package
from dllmc.runtime._constraint import automaton_for
from dllmc.runtime._pieces import trace_of
from dllmc.runtime._text import encoded
from dllmc.runtime.auxiliary import Auxiliary, check_auxiliary
from dllmc.runtime.backends import programs_of
from dllmc.runtime.hardware import detect_hardware, detect_software
from dllmc.runtime.joint import JointSamplers
from dllmc.runtime.output import Output
from dllmc.runtime.placement import device_of, placed
from dllmc.runtime.pool import Pool, scratch_of
from dllmc.runtime.programs import Programs, Selects
from dllmc.runtime.records import choose
from dllmc.runtime.scheduler import next_group
from dllmc.runtime.state import DecodeState
from dllmc.runtime.step import StepOutcome, evaluate
from dllmc.runtime.strides import Strides
from dllmc.spec import PromptError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime.smoke import SmokeKey, SmokeResult
    from dllmc.spec import DenoiserSpec, HardwareKey, StepPlan
    from dllmc.tuning_db import Objective

Prompts = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | torch.Tensor

# Response length where neither the caller nor the model's layout says one.
_DEFAULT_RESPONSE = 32
# Sequences decoded together unless the caller says otherwise.
_DEFAULT_BATCH = 16


class Engine:
    """Decodes with a compiled model.

    Args:
        package: From `dllmc.compile(...)` or `load_package`.
        backend: `eager`, `inductor` or `aot`; None is the package's own.
        device: Where to run; None is where the weights of `package` are.
        database: The user's tuning database, looked into after the package's own records and
            before the shipped ones; None is its usual place.
        auxiliary: The autoregressive model that `verify` policies may ask: a compiled model, its
            package, or the path of its artifact; None is none.
        capture: Whether compiled steps are captured as CUDA graphs; None is on a GPU.
        look_every: Steps at most before the host looks at what they did; None is 8 on a GPU and 1
            elsewhere. What is decoded is the same.

    Raises:
        ConfigError: The auxiliary model is none, or has another vocabulary.
        UsageError: The back end is unknown, or there is no such device here.
    """

    def __init__(
        self,
        package: Package,
        *,
        backend: str | None = None,
        device: str | torch.device | None = None,
        database: str | Path | None = None,
        auxiliary: Any = None,
        capture: bool | None = None,
        look_every: int | None = None,
    ) -> None:
        # Graphs name operators, which importing `kernels` has registered.
        assert kernels.canonical_names()
        self.device = device_of(package) if device is None else torch.device(device)
        self.package = package = placed(package, self.device)
        self.backend = backend or package.backend
        self.captures = (self.device.type == "cuda") if capture is None else capture
        self.database = database
        self.programs = self._programs(package)
        self.selects = Selects()
        self.strides = Strides(self.spec, self.dtype, self.device, self.selects, look_every)
        self.auxiliary = None if auxiliary is None else self._auxiliary(auxiliary)
        self.joint = JointSamplers(package, self._programs)
        self.smoked: dict[SmokeKey, SmokeResult] = {}

    @classmethod
    def load(
        cls, path: str | Path, *, public_key: str | Path | None = None, **options: Any
    ) -> Engine:
        """An engine over the artifact at `path`; with a key, only if it is signed with that.

        Raises:
            ArtifactError: The artifact is damaged, of another version, or not signed so.
        """
        return cls(load_package(path, public_key=public_key), **options)

    def _auxiliary(self, given: Any) -> Auxiliary:
        package = load_package(given) if isinstance(given, str | Path) else given
        package = getattr(package, "package", package)
        if not isinstance(package, Package):
            raise UsageError(
                f"`auxiliary`={given!r} is no compiled model; compile it first, or give the path "
                "of its artifact"
            )
        package = placed(package, self.device)
        return Auxiliary(package, self._programs(package), self.package)

    def _programs(self, package: Package) -> Programs:
        helper = package is not self.package
        return programs_of(
            package, self.backend, self.device, capture=self.captures, helper=helper
        )

    @property
    def spec(self) -> DenoiserSpec:
        return self.package.spec

    @property
    def name(self) -> str:
        return self.package.name

    @property
    def dtype(self) -> str:
        return self.package.dtype

    @property
    def weights_sha256(self) -> str:
        return self.package.weights_sha256

    @property
    def execution(self) -> str:
        """How steps run, part of every speed record's key."""
        return self.programs.execution + ("+strides" if self.strides.look_every > 1 else "")

    @property
    def numerics(self) -> str:
        """Class of rounding: dtype, back-end family and precision of matrix products."""
        precision = torch.get_float32_matmul_precision()
        return f"{self.dtype}/{self.backend}/{self.device.type}/{precision}"

    @property
    def hardware(self) -> HardwareKey:
        """The device, as measurements on it are filed."""
        return detect_hardware(self.device)

    @property
    def software(self) -> dict[str, str]:
        """Versions on which speed depends."""
        return detect_software(self.device)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`.

        Raises:
            PromptError: The model has no tokenizer, or does not know a character.
        """
        return self._encode(text)

    def encode_chat(self, messages: Messages) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Args:
            messages: Each with `role` and `content`.

        Raises:
            PromptError: The model has no chat template or tokenizer, or refuses the messages.
            CheckpointError: The template is damaged, or does what no template may.
        """
        if self.package.chat is None:
            raise PromptError(f"model `{self.name}` has no chat template; give the prompt as text")
        return self._encode(self.package.chat.render(messages), has_special_tokens=True)

    def _encode(self, text: str, *, has_special_tokens: bool = False) -> list[int]:
        if self.package.tokenizer is None:
            raise PromptError(f"model `{self.name}` has no tokenizer; give token ids")
        return encoded(self.package.tokenizer, self.name, text, special=not has_special_tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        if self.package.tokenizer is None:
            raise PromptError(f"model `{self.name}` has no tokenizer; use the token ids")
        text: str = self.package.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def specialise(
        self, plans: Iterable[StepPlan] = (), configs: Iterable[DecodingConfig] = ()
    ) -> None:
        """Compile static programs for the plans that matter most, and select programs.

        Args:
            plans: Each takes seconds to a minute now.
            configs: Whose decisions are to be one compiled function; each takes seconds when it
                is first decoded with.

        Raises:
            PlanError: The back end has no such programs.
        """
        self.programs.specialise(plans)
        for config in configs:
            self.selects.want(config)

    def open(
        self,
        prompts: Sequence[Sequence[int]],
        config: DecodingConfig,
        max_new_tokens: int,
        *,
        streams: Sequence[int] | None = None,
    ) -> tuple[Pool, list[DecodeState]]:
        """Lay out sequences to decode together; `step` then advances them.

        Args:
            prompts: Token ids of each.
            config: How to decode.
            max_new_tokens: Response length in tokens.
            streams: Noise stream of each; their index by default.

        Raises:
            ConfigError: The response cannot be decoded like this.
            PromptError: A prompt does not fit.
        """
        numbers = range(len(prompts)) if streams is None else streams
        automaton = automaton_for(self.package, config, self.device)
        states = [
            DecodeState(self.spec, prompt, config, max_new_tokens, stream, automaton)
            for prompt, stream in zip(prompts, numbers, strict=True)
        ]
        pool = Pool.allocate(
            self.programs,
            len(states),
            max(state.length for state in states),
            getattr(torch, self.dtype),
            self.device,
            scratch=max(map(scratch_of, states)),
        )
        for state in states:
            check_auxiliary(self.auxiliary, state)
            self.joint.check(state)
            pool.admit(state)
        if self.auxiliary is not None:
            self.auxiliary.allocate(pool)
        return pool, states

    def step(self, pool: Pool, states: Sequence[DecodeState]) -> StepOutcome | None:
        """One evaluation for the sequences of `states` that go together best.

        A server may admit and release sequences between steps. Returns None when all are done.
        """
        group = next_group(states)
        return self._evaluate(pool, group) if group else None

    def _evaluate(self, pool: Pool, group: list[DecodeState]) -> StepOutcome:
        joint = group[0].evaluation().joint
        programs = self.joint.programs(group[0]) if joint else self.programs
        return evaluate(programs, self.spec, pool, group, self.dtype, self.selects, self.auxiliary)

    def advance(self, pool: Pool, states: Sequence[DecodeState]) -> bool:
        """Decode the sequences that go together best up to the next look of the host.

        Several steps where `look_every` allows them and the policies let the host foresee what
        is evaluated; one otherwise. False when all are done.
        """
        group = next_group(states)
        if not group:
            return False
        if not self.strides.take(self.programs, pool, group):
            self._evaluate(pool, group)
        return True

    def generate(
        self,
        prompt: Prompts,
        *,
        max_new_tokens: int | None = None,
        config: DecodingConfig | Mapping[str, Any] | str = "auto",
        task: str | None = None,
        batch: int | None = None,
        streams: Sequence[int] | None = None,
        allow: Sequence[str] = (),
        objective: Objective = "throughput",
        strict: bool = False,
    ) -> Output:
        """Decode one prompt, or several.

        Args:
            prompt: Text or token ids, or a sequence of either; a tensor `[T]` or `[B, T]`.
            max_new_tokens: Response length in tokens; by default the model's response slots, or
                32.
            config: How to decode; `auto` takes the tuning record that fits best, else `SAFE`.
            task: For which records are looked up.
            batch: Sequences decoded together at most, 16 by default.
            streams: Noise stream of each prompt; its index by default.
            allow: Levels of records to apply besides those that are safe: `other-task` of other
                prompts, `family` of other weights.
            objective: What records are wanted to be tuned for.
            strict: Whether a record's knob that nothing takes up is an error, and not a reason.

        Raises:
            ConfigError: The configuration is invalid or does not fit the response.
            PromptError: A prompt is empty, too long or contains the mask.
            TuningDatabaseError: `strict`, and a knob of the record is not taken up.
        """
        begun = time.perf_counter()
        single, prompts = self._prompts(prompt)
        length = self._response_length() if max_new_tokens is None else max_new_tokens
        width = _DEFAULT_BATCH if batch is None else batch
        if width < 1:
            raise UsageError(f"`batch`={width} must be at least 1")
        for given in prompts:
            self.spec.prepare_prompt(given, length)
        choice = choose(
            self,
            config,
            task=task,
            batch=min(width, len(prompts)),
            max_new_tokens=length,
            allow=allow,
            objective=objective,
            strict=strict,
        )
        numbers = list(streams) if streams is not None else list(range(len(prompts)))
        states: list[DecodeState] = []
        tokens: list[list[int]] = []
        for first in range(0, len(prompts), width):
            part = slice(first, first + width)
            pool, opened = self.open(prompts[part], choice.config, length, streams=numbers[part])
            while self.advance(pool, opened):
                pass
            self.strides.remember(choice.config, opened)
            states += opened
            tokens += [state.output for state in opened]
        texts = None
        if self.package.tokenizer is not None:
            texts = [self.decode(row) for row in tokens]

        dumped = choice.config.model_dump(mode="json")

        def pick(values: list[Any]) -> Any:
            return values[0] if single else values

        return Output(
            text=None if texts is None else pick(texts),
            tokens=pick(tokens),
            nfe=pick([state.nfe for state in states]),
            auxiliary_nfe=pick([state.auxiliary_nfe for state in states]),
            plans=pick([[(need.key, n) for need, n in state.needs] for state in states]),
            config=choice.config,
            record=choice.record,
            match=choice.match,
            reasons=choice.reasons,
            trace=pick(
                [
                    trace_of(state, row, dumped, self.name, self.package.tokenizer)
                    for state, row in zip(states, tokens, strict=True)
                ]
            ),
            seconds=time.perf_counter() - begun,
            first_block_seconds=pick([state.first_block_seconds for state in states]),
        )

    def chat(self, messages: Messages | Sequence[Messages], **options: Any) -> Output:
        """Decode the answer to a conversation, or to several.

        Args:
            messages: Each with `role` and `content`: `[{"role": "user", "content": "..."}]`.
            options: Of `generate`.

        Raises:
            PromptError: The model has no chat template or tokenizer, or refuses the messages.
            CheckpointError: The template is damaged, or does what no template may.
        """
        if messages and not isinstance(messages[0], Mapping | str):
            several = cast("Sequence[Messages]", messages)
            return self.generate([self.encode_chat(each) for each in several], **options)
        return self.generate(self.encode_chat(cast("Messages", messages)), **options)

    def _prompts(self, prompt: Prompts) -> tuple[bool, list[list[int]]]:
        if isinstance(prompt, str):
            return True, [self.encode(prompt)]
        if isinstance(prompt, torch.Tensor):
            prompt = prompt.tolist()
        if not prompt:
            raise PromptError("the prompt is empty; give text or token ids")
        if all(isinstance(item, int) for item in prompt):
            return True, [cast("list[int]", list(prompt))]
        items = cast("Sequence[str | Sequence[int]]", prompt)
        return False, [self.encode(i) if isinstance(i, str) else list(i) for i in items]

    def _response_length(self) -> int:
        slots = self.spec.prompt_slots
        return self.spec.max_length - slots if slots is not None else _DEFAULT_RESPONSE
