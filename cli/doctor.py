"""`dllmc doctor`: what this machine can run, what is missing, and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

import typer
from rich.text import Text

from dllmc.cli._console import output, print_json, table
from dllmc.spec import DllmcError

_MARKS = {"ok": "[green]ok", "missing": "[red]missing", "off": "[dim]not here"}


@dataclass(frozen=True)
class Finding:
    """One fact of the machine.

    Attributes:
        name: Of what was looked for.
        state: `ok`, `missing` where something should be done, `off` where it is only needed for
            what else was not asked for.
        found: What there is.
        remedy: What to do; empty for what is well.
    """

    name: str
    state: Literal["ok", "missing", "off"]
    found: str
    remedy: str = ""


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine can run, what is missing, and what to do."""
    findings = examine()
    if json:
        print_json([asdict(finding) for finding in findings])
        return
    shown = table("", "", "found", "to do")
    for finding in findings:
        mark = _MARKS[finding.state]
        shown.add_row(Text(finding.name), mark, Text(finding.found), Text(finding.remedy))
    console = output()
    console.print(shown)
    can = "eager and inductor" if _works(findings, "C++ compiler") else "eager"
    console.print(f"\nback ends that run here: {can}")
    made = [name for name in ("onnxruntime", "tensorrt") if _works(findings, name)]
    console.print(f"with artifacts made for them: {', '.join(['aot', *made])}")


def examine() -> list[Finding]:
    """Everything worth knowing, in the order in which it is needed."""
    return [
        Finding("dllmc", "ok", f"{version('dllmc')}, Python {platform.python_version()}"),
        _torch(),
        _processor(),
        _compiler(),
        _gpu(),
        _package("triton", "kernels on NVIDIA GPUs", "comes with torch for CUDA"),
        _package("onnx", "exporting to ONNX", 'pip install "dllmc[onnx]"'),
        _package("onnxruntime", "the onnxruntime back end", "pip install onnxruntime"),
        _package(
            "tensorrt",
            "the tensorrt back end",
            'pip install "dllmc[tensorrt]" where there is an NVIDIA GPU',
        ),
        _embedded(),
        _database(),
    ]


def _works(findings: list[Finding], name: str) -> bool:
    return any(finding.name == name and finding.state == "ok" for finding in findings)


def _torch() -> Finding:
    import torch

    tested = (2, 11) <= tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 14)
    remedy = "" if tested else "install torch>=2.11,<2.14"
    return Finding("torch", "ok" if tested else "missing", torch.__version__, remedy)


def _processor() -> Finding:
    import torch

    from dllmc.runtime.hardware import detect_hardware

    key = detect_hardware(torch.device("cpu"))
    cores = os.cpu_count() or 1
    found = f"{key.name}, {key.architecture}, {torch.get_num_threads()} threads of {cores} CPUs"
    return Finding("CPU", "ok", found)


def _compiler() -> Finding:
    name = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    if name is None or shutil.which(name) is None:
        return Finding(
            "C++ compiler", "missing", "none", "install g++ for the inductor back end (or set CXX)"
        )
    run = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
    return Finding("C++ compiler", "ok", (run.stdout.splitlines() or [name])[0])


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "no device"
        return Finding("NVIDIA GPU", "off", built, "where there is one: torch for CUDA")
    from dllmc.runtime.hardware import detect_hardware

    key = detect_hardware(torch.device("cuda"))
    return Finding("NVIDIA GPU", "ok", f"{key.name}, {key.architecture}, {key.memory_gib} GiB")


def _package(name: str, purpose: str, remedy: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "off", f"only for {purpose}", remedy)


def _embedded() -> Finding:
    from dllmc.models.embedded import CHECKPOINT

    if (CHECKPOINT / "model.safetensors").is_file():
        return Finding("embedded model", "ok", str(CHECKPOINT))
    remedy = "reinstall, or train it: python -m dllmc.models.embedded.train"
    return Finding("embedded model", "missing", "no checkpoint", remedy)


def _database() -> Finding:
    from dllmc.tuning_db import Store, default_root

    try:
        store = Store(default_root())
        problems = store.problems()
    except DllmcError as error:
        return Finding("tuning database", "missing", str(error), "see `dllmc db verify`")
    found = f"{store.root}: {len(store.records())} records"
    if problems:
        return Finding(
            "tuning database", "missing", f"{found}, {len(problems)} problems", "dllmc db verify"
        )
    return Finding("tuning database", "ok", found)
