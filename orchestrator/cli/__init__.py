"""The commands. A user's mistake ends in one clear message and exit code 2, never in a traceback.

A command's code is imported when it is called, so that `--help` need not wait for it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import typer

from orchestrator.cli.app import app
from orchestrator.cli.checking import checks
from orchestrator.cli.driving import drives, runs
from orchestrator.cli.keeping import keeps
from orchestrator.cli.looking import looks
from orchestrator.errors import BadInput, Interrupted, RatchetError, first_line
from orchestrator.files.disk import MORE_PROCESSES, unusable
from orchestrator.files.lack import TOO_LITTLE_MEMORY, of_memory
from orchestrator.text import shown, terminal

for group in (runs, looks, keeps, checks):
    app.add_typer(group.commands)


_NO_THREAD = "can't start new thread"
"""What Python says then, in a RuntimeError."""
_COMPLETION = "--install-completion"


def main(arguments: list[str] | None = None) -> None:
    """Run the command that is asked for, by default on the command line, and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    with terminal.shielded() as shield:
        code = _run_command(given)
        # What a run is for is in its folder; of other commands, what they print.
        if code == 0 and shield.unprinted and not drives(given):
            terminal.echo(f"ratchet: what it prints cannot be written: {shield.unprinted}", err=True)
            code = RatchetError.exit_code
    sys.exit(code)


@functools.cache
def command() -> Any:
    """`ratchet` as click knows it. It takes 20 ms to make, once a process."""
    return typer.main.get_command(app)


def _require_docstrings() -> None:
    if sys.flags.optimize > 1:
        raise BadInput(
            "PYTHONOPTIMIZE=2 (`python -OO`) takes docstrings out of all code, and Ray and transformers break without "
            "theirs: unset it, or set it to 1"
        )


def _run_command(arguments: list[str]) -> int:
    """The exit code of a command."""
    try:
        _require_docstrings()
        command()(arguments)
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # typer takes it for a reader of ours who left
            terminal.echo_traceback()
        return left.code if isinstance(left.code, int) else 0 if left.code is None else RatchetError.exit_code
    except RatchetError as error:
        terminal.failure(error, arguments)
        return error.exit_code
    except (Interrupted, KeyboardInterrupt):
        return Interrupted.exit_code
    except Exception as error:
        return _unforeseen(error, arguments)
    return 0


def _unforeseen(error: Exception, arguments: list[str]) -> int:
    """The exit code of an error for which no command has a word: one of the machine has a line here, and what is left
    is a bug, which has its trace."""
    if isinstance(error, OSError) and (told_as := unusable(error)):  # wherever what was given is first looked for
        terminal.failure(shown.line(told_as))
        return told_as.exit_code
    if of_memory(error):
        terminal.failure(TOO_LITTLE_MEMORY)
    elif str(error) == _NO_THREAD:
        terminal.failure(f"no more threads may be started: {MORE_PROCESSES}, or more memory (`ulimit -v`)")
    elif _COMPLETION in arguments:  # typer's own: of a home that is no folder, or a start file that is not in UTF-8
        terminal.failure(f"{_COMPLETION}: {first_line(error)}. It writes below HOME: let that be a folder of yours")
    else:
        terminal.echo_traceback()
    return RatchetError.exit_code
