"""How the command fails: one line on the error stream, and an exit status."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from dllmc.spec import DllmcError, UsageError, nearest

INTERRUPTED = 130
_USAGE = 2


class Group(TyperGroup):
    """A group of commands whose errors are one line; `--debug` anywhere shows the traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        given = args[0] if args else extra.pop("args", None)
        words = list(sys.argv[1:] if given is None else given)
        options = words[: words.index("--")] if "--" in words else words
        debug = "--debug" in options
        if debug:
            words.remove("--debug")
        extra |= {"standalone_mode": False, "prog_name": "dllmc"}
        try:
            status = super().main(words, **extra)
        except Exception as error:
            if debug:
                traceback.print_exc()
            status = report_error(error)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        # Here, since what is outside turns an interruption into an exit without a word.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            hint = nearest(args[0], self.list_commands(ctx))
            raise UsageError(f"there is no command `{args[0]}`; {hint}")
        return super().resolve_command(ctx, args)


def report_error(error: Exception) -> int:
    """Say in one line what is wrong and return the exit status."""
    if isinstance(error, DllmcError):
        message, status = str(error), error.exit_code
    elif hasattr(error, "format_message"):  # typer's own, of which it exports no base class
        message, status = error.format_message(), _USAGE
    elif isinstance(error, OSError) and error.filename is not None:
        message, status = f"`{error.filename}`: {error.strerror}", 1
    else:
        detail = str(error).strip().partition("\n")[0]
        message = f"internal error: {type(error).__name__}: {detail}; run with --debug and report"
        status = 1
    if message:  # none where typer has printed the help
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
