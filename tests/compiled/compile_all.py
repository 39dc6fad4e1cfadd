"""Compile every case for GPUs that need not be there, and print what the code takes, as JSON.

python -m compiled.compile_all 80 90
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiled.case import Case

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def cases() -> Iterator[Case]:
    for module in pkgutil.iter_modules(compiled.__path__):
        yield from getattr(importlib.import_module(f"compiled.{module.name}"), "CASES", [])


def compile_case(case: Case, capability: int) -> dict[str, object]:
    """Registers, spilled and shared bytes of the machine code, and whether it multiplies tiles."""
    names = case.kernel.arg_names
    signature = {n: "constexpr" if n in case.constants else case.types[n] for n in names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if (signature[name].startswith("*") and name not in case.unaligned) or name in case.aligned
    }
    source = ASTSource(case.kernel, signature, dict(case.constants), aligned)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=dict(case.options))
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        command = [str(_TOOLS / "cuobjdump"), "--dump-resource-usage", str(cubin)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        used = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        # A stack frame need not be of registers that were spilled.
        framed = used["STACK"] + used["LOCAL"]
        spilled = _spilled(made.asm["ptx"], capability, Path(folder)) if framed else 0
    return {
        "case": case.name,
        "capability": capability,
        "registers": used["REG"],
        "spilled": spilled,
        "shared": made.metadata.shared,
        "tensor_cores": "wgmma" in made.asm["ptx"] or "mma.sync" in made.asm["ptx"],
    }


def _spilled(ptx: str, capability: int, folder: Path) -> int:
    """Bytes of registers that are stored and loaded again."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    suffix = "a" if capability >= 90 else ""
    command = [str(_TOOLS / "ptxas"), "-v", f"-arch=sm_{capability}{suffix}", str(source)]
    command += ["-o", str(folder / "again.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill", said)))


def _compile(number: int, capability: int) -> dict[str, object]:
    """Kernels do not go from process to process, but their numbers do."""
    return compile_case(list(cases())[number], capability)


def main() -> None:
    wanted = [int(each) for each in sys.argv[1:] if each != "--few"]
    every = list(cases())
    numbers = list(range(len(every)))
    if "--few" in sys.argv:
        kernels = [case.kernel for case in every]
        numbers = [n for n in numbers if kernels[n] not in kernels[:n]]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        asked = [(n, c) for n, c in product(numbers, wanted) if c in every[n].capabilities]
        found = pool.map(_compile, *zip(*asked, strict=True))
        json.dump(list(found), sys.stdout)


if __name__ == "__main__":
    main()
