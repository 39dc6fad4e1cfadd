"""`dllmc compile`: a model in, an artifact out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from dllmc.cli._config import read_config
from dllmc.cli._console import output, print_json, progress, remark, say, table
from dllmc.cli._subject import DEVICE_HELP, DTYPES, load_model
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table
    from torch.fx import GraphModule

    from dllmc.artifact import Package
    from dllmc.compiler import CompiledModel
    from dllmc.policies.config import DecodingConfig

_REMARKS = {
    "inductor": (
        "The artifact holds the rewritten graph and the weights: decoding with it compiles the "
        "graph first, which Inductor's cache shortens the second time; `--backend aot` compiles "
        "now."
    ),
    "aot": (
        "The artifact holds machine code, the rewritten graph and the weights. It decodes with "
        "the plans that were asked for; `dllmc compile ARTIFACT --add-plan CONFIG` adds others."
    ),
    "onnxruntime": (
        "The artifact holds ONNX models, the rewritten graph and the weights, which both read. It "
        "decodes with the plans that were asked for; `dllmc compile ARTIFACT --add-plan CONFIG` "
        "adds others."
    ),
    "tensorrt": (
        "The artifact holds TensorRT engines for this GPU, each with the weights once more, the "
        "rewritten graph and the weights."
    ),
    "eager": "The artifact holds the rewritten graph and the weights, and is run node by node.",
}


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="embedded, random:SHAPE, a checkpoint folder, ORG/NAME of the hub, or "
            "package.module:function, which returns a module and its DenoiserSpec."
        ),
    ],
    out: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="The artifact.")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="inductor, eager; made now: aot, machine code; onnxruntime; tensorrt."),
    ] = "inductor",
    plans: Annotated[
        list[str] | None,
        typer.Option(
            "--plans",
            metavar="CONFIG",
            help="For what is made now: a way to decode that there are to be programs for, as for "
            "`generate --config`; repeatable. Left out: SAFE, SPEED_BASELINE and shipped records.",
        ),
    ] = None,
    add_plan: Annotated[
        list[str] | None,
        typer.Option(
            "--add-plan",
            metavar="CONFIG",
            help="MODEL is an artifact: add programs for this way to decode; repeatable.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="For aot: x86-64-v3, or native, like this processor.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each pass by execution in float64.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}; as stored.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Round the weights, which is lossy: bfloat16, int8, int4, bfloat16+int8 or "
            "bfloat16+int4."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile MODEL into an artifact that any machine of this kind can load."""
    from dllmc.artifact.files import check_replaceable
    from dllmc.runtime.backends import MADE_BEFORE

    if add_plan:
        _refuse(f"`{model}` is compiled", {"--backend": backend != "inductor", "--plans": plans})
        _refuse(f"`{model}` is compiled", {"--dtype": dtype, "--verify": verify})
        _refuse(f"`{model}` is compiled", {"--precision": precision, "--device": device})
        add_programs(model, out or model, add_plan, target)
        return
    if out is None:
        raise UsageError("`--output` is missing; say where the artifact goes: -o model.dllm")
    if backend != "aot":
        _refuse(f"`--backend` is {backend}", {"--target": target})
    if backend not in MADE_BEFORE:
        _refuse(f"`--backend` is {backend}", {"--plans": plans})
    configs = None if plans is None else read_configs(plans)
    check_replaceable(out)
    compiled = compile_with_progress(
        model,
        backend=backend,
        verify=verify,
        dtype=dtype,
        plans=configs,
        target=target,
        precision=precision,
        device=device or "cpu",
    )
    path = compiled.save(out)
    package = compiled.package
    if json:
        facts = {
            "artifact": str(path),
            "model": package.name,
            "backend": package.backend,
            "dtype": package.dtype,
            "precision": package.precision,
            "weights_sha256": package.weights_sha256,
            "passes": [dataclasses.asdict(result) for result in compiled.report],
        }
        print_json(facts)
        return
    output().print(pass_table([dataclasses.asdict(result) for result in compiled.report]))
    verified = ", every pass verified in float64" if verify else ""
    rounded = "" if package.precision is None else f", weights rounded to {package.precision}"
    say(f"\nwrote {path}: {package.name}, {package.dtype}{rounded}{verified}")
    remark(_REMARKS[package.backend])


def compile_with_progress(
    model: str,
    *,
    backend: str,
    verify: bool = False,
    dtype: str | None = None,
    after_pass: Callable[[str, GraphModule], None] | None = None,
    plans: Sequence[DecodingConfig] | None = None,
    target: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
) -> CompiledModel:
    """Compile `model`, showing which pass runs; `after_pass` gets its name and the graph."""
    from dllmc.compiler import compile_model
    from dllmc.passes import pass_types
    from dllmc.runtime import Engine
    from dllmc.runtime.backends import MADE_BEFORE
    from dllmc.runtime.build import with_plans

    with progress() as bar:
        line = bar.add_task(f"loading {model}", total=None)
        loaded = load_model(model, dtype)
        # Lowering runs once per variant of the graph; capture is reported as one more pass.
        total = len(pass_types()) + 2
        what = "verifying, then rewriting" if verify else "capturing"
        bar.update(line, description=what, total=total)

        def show(name: str, graph: GraphModule) -> None:
            bar.update(line, description=name, advance=1)
            if after_pass is not None:
                after_pass(name, graph)

        compiled = compile_model(
            loaded,
            engine_of=Engine,
            backend=backend,
            verify=verify,
            precision=precision,
            device=device,
            before_and_after=show,
        )
        if backend not in MADE_BEFORE:
            return compiled
        bar.update(line, description="finding plans", total=None)
        package = with_plans(
            compiled.package,
            plans,
            target=target,
            tell=lambda what: bar.update(line, description=what),
        )
        return dataclasses.replace(compiled, package=package)


def add_programs(artifact: str, out: str, texts: Sequence[str], target: str | None) -> None:
    """Write `artifact` to `out` with programs for more ways to decode.

    Raises:
        DllmcError: It is no artifact, is for another target, or a configuration does not fit.
    """
    from dllmc.artifact import load_package, save_package
    from dllmc.artifact.files import check_replaceable
    from dllmc.runtime.build import with_plans

    configs = read_configs(texts)
    check_replaceable(out)
    package = load_package(artifact)
    known = package.binaries
    if known is not None and target not in (None, known.listing.target.isa):
        raise UsageError(
            f"the programs of `{artifact}` are for {known.listing.target.isa}; leave `--target` "
            "out, or use `dllmc rebuild`"
        )
    with progress() as bar:
        line = bar.add_task("finding plans", total=None)
        made = with_plans(
            package,
            configs,
            target=target,
            add=True,
            tell=lambda what: bar.update(line, description=what),
        )
    path = save_package(made, out)
    say(f"wrote {path}: {_count(made)} programs, of {_count(package)} before")


def _count(package: Package) -> int:
    """Programs that were made before, of the package's back end."""
    held = {"onnxruntime": package.exports, "tensorrt": package.engines}.get(
        package.backend, package.binaries
    )
    return 0 if held is None else len(held.listing.programs)


def read_configs(texts: Sequence[str]) -> list[DecodingConfig]:
    """Configurations as `--plans` says them.

    Raises:
        ConfigError: One is none.
        UsageError: One is `auto`, which is no way to decode.
    """
    found = [read_config(text) for text in texts]
    if None in found:
        raise UsageError("`auto` says no plans; give a configuration, or leave `--plans` out")
    return [config for config in found if config is not None]


def _refuse(reason: str, given: Mapping[str, object]) -> None:
    """Raise `UsageError` for options that mean nothing here."""
    for option, value in given.items():
        if value:
            raise UsageError(f"`{option}` means nothing where {reason}; leave it out")


def pass_table(results: Sequence[Mapping[str, object]]) -> Table:
    """What each pass did."""
    numbers = ("matched", "expected", "nodes before", "after", "ms")
    found = table("pass", *numbers, "", right=numbers)
    for result in results:
        expected, seconds = result["expected"], result["seconds"]
        assert isinstance(seconds, float)
        found.add_row(
            str(result["name"]),
            str(result["matched"]),
            "any" if expected is None else str(expected),
            str(result["nodes_before"]),
            str(result["nodes_after"]),
            f"{seconds * 1e3:.1f}",
            str(result["skipped_because"] or ""),
        )
    return found
