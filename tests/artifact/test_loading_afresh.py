"""A process that only decodes needs neither the compiler nor the model's code."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from graphs.toys import SPEC, Toy

from dllmc.compiler import compile_model
from dllmc.runtime.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
from dllmc.runtime.engine import Engine
engine = Engine.load(sys.argv[1])
output = engine.generate([1, 2, 3], max_new_tokens=9, config={"temperature": 0.5, "seed": 4})
print(output.tokens)
heavy = ("dllmc.compiler", "dllmc.passes", "dllmc.models", "dllmc.autotune", "optuna", "typer",
         "graphs")
print([name for name in heavy if name in sys.modules])
"""


def test_a_fresh_process_decodes_without_compiler_and_model_code(tmp_path: Path) -> None:
    compiled = compile_model(Toy().float(), engine_of=Engine, spec=SPEC, backend="eager")
    path = compiled.save(tmp_path / "toy.dllm")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    tokens, loaded = run.stdout.splitlines()
    config = {"temperature": 0.5, "seed": 4}
    here = compiled.engine().generate([1, 2, 3], max_new_tokens=9, config=config)
    assert tokens == str(here.tokens)
    assert loaded == "[]"
