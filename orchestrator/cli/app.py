"""What all commands share: the application, the arguments that several take, and how they are interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.driver.signals import signals
from orchestrator.driver.trust import Tell
from orchestrator.errors import Interrupted
from orchestrator.text import terminal
from orchestrator.text.terminal import echo

app = typer.Typer(
    name="ratchet",
    help="Iterative self-improvement of language models: generate, score, pair, train, evaluate, promote.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
JobArgument = Annotated[Path, typer.Argument(metavar="JOB", help="Job file, such as jobs/irpo.yaml, or `demo`")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to override")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/irpo, or its name")]
NewRun = Annotated[Path, typer.Argument(metavar="NEWRUN", help="Folder of the new run, such as runs/irpo-2")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Show and approve what of a run's own settings needs trust: docs/threats.md")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]


class Group:
    """Commands that stand under one heading of the help."""

    def __init__(self, heading: str) -> None:
        self.commands = typer.Typer()
        self._heading = heading

    def command(self, *examples: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Makes a command of a function, by its name or another. The command's help ends with `examples`."""
        shown_below = "\n\n".join(("Examples", *examples))
        return self.commands.command(name, rich_help_panel=self._heading, epilog=shown_below)


def show_version(asked: bool) -> None:
    """Print the version, and leave, if that was asked for."""
    if asked:
        echo(f"ratchet {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None:
    """What stands before a command."""


def telling(trust: bool) -> Tell | None:
    """How what needs trust is shown; None where it may not be approved."""
    return (lambda text: terminal.block(text, err=True)) if trust else None


@contextlib.contextmanager
def interruptible(err: bool = False) -> Iterator[Sequence[str]]:
    """A command that a signal cuts off, and that goes on when it is given again; it says so, with `err` on stderr.
    Gives the signals that were received."""
    try:
        with signals() as received:
            yield received
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; the same command goes on from here", err)
        raise typer.Exit(Interrupted.exit_code) from interrupted
