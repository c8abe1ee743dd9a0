"""The commands that look at a run, and change nothing of what is committed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.app import Group, Json, RunArgument, interruptible
from orchestrator.config.places import run_named
from orchestrator.driver.signals import signals
from orchestrator.errors import Interrupted
from orchestrator.text import terminal
from orchestrator.text.terminal import echo, echo_json

looks = Group("Look at a run")


@looks.command("ratchet ui", "ratchet ui runs/irpo --port 5000")
def ui(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Run folder, or a folder of runs; by default the project's")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; by default a free one")] = None,
) -> None:
    """Serve the dashboard of a project's runs on this machine, and print the addresses of its pages; Ctrl-C ends it."""
    from orchestrator.commands.ui import find, serve

    with contextlib.suppress(Interrupted), signals():
        serve(find(run_named(run) if run else None), echo, port)


@looks.command("ratchet list", "ratchet list runs/compare --json", name="list")
def list_runs(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of runs; by default that in which runs are made")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs of a folder, the newest first: state, rounds, and how much the model has gained."""
    from orchestrator.commands import list as command

    command.show(folder, as_json)


@looks.command("ratchet status runs/irpo", "ratchet status runs/irpo --watch", "ratchet status runs/irpo --json")
def status(
    run: RunArgument,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on for as long as the run is driven")] = False,
) -> None:
    """Show what a run has done, and whether it is running."""
    from orchestrator.commands import status as command

    command.show(run_named(run), as_json, watch)


@looks.command(
    "ratchet inspect runs/irpo",
    "ratchet inspect runs/irpo --round 2 --verdict wrong",
    "ratchet inspect runs/irpo --flipped --split test",
    "ratchet inspect runs/irpo --problem=train-7",
    "ratchet inspect runs/irpo --pair=train-7/0",
    "ratchet inspect runs/irpo --round 2 --checkpoint --json",
)
def inspect(
    run: RunArgument,
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Of this round, by default the last; 0 is the base model")
    ] = None,
    split: Annotated[str | None, typer.Option(help="The round's samples (train), or answers to gate or test")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only correct, wrong or ungradable ones")] = None,
    cause: Annotated[str | None, typer.Option(help="Only those ungradable since: see docs/grading.md")] = None,
    rule: Annotated[str | None, typer.Option(help="Only those whose answer was found by this rule")] = None,
    text: Annotated[str | None, typer.Option(help="Only those with this in what the model wrote")] = None,
    problem: Annotated[str | None, typer.Option(metavar="ID", help="One problem through all rounds")] = None,
    pair: Annotated[
        str | None, typer.Option(metavar="ID", help="Why this pair exists, and which updates used it")
    ] = None,
    flipped: Annotated[bool, typer.Option("--flipped", help="Problems won and lost against the reference")] = False,
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="What the round's checkpoint comes from")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10**9, help="At most so many samples or flips")] = 10,
    full: Annotated[bool, typer.Option("--full", help="Every text in full")] = False,
    as_json: Json = False,
) -> None:
    """Look into a run: samples with their verdicts, problems that flipped, a problem, a pair, a checkpoint."""
    from orchestrator.commands import inspect as command

    asked: Any = (number, split, verdict, cause, rule, text, problem, pair, flipped, checkpoint, limit)
    command.show(run_named(run), command.Asked(*asked), full, as_json)


@looks.command("ratchet report runs/irpo", "ratchet report runs/irpo -o irpo.html")
def report(
    run: RunArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where the page goes; by default report.html in the run")
    ] = None,
) -> None:
    """Write report.html, a page with a run's charts and samples, which a browser opens without a network."""
    from orchestrator.commands import report as command

    with interruptible():
        command.write(run_named(run), output)


@looks.command("ratchet logs runs/irpo --follow", "ratchet logs runs/irpo --round 2 --role rank")
def logs(
    run: RunArgument,
    number: Annotated[int | None, typer.Option("--round", min=0, help="Only of this round; 0 is the baseline")] = None,
    step: Annotated[str | None, typer.Option(help="Only of this step, such as rounds/01/samples, or samples")] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="Only of this shard of a step")] = None,
    role: Annotated[
        str | None, typer.Option(help="Only of this kind of worker: engine, rank, grader, rewarder, harness, ray")
    ] = None,
    worker: Annotated[int | None, typer.Option(min=0, help="Only of the worker of this number")] = None,
    driver: Annotated[int | None, typer.Option(min=1, help="Only of this driver's workers, counted from 1")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on for as long as the run is driven")] = False,
) -> None:
    """Show what a run's workers have printed, each line with its worker, step and shard."""
    from orchestrator.reports import worker_logs

    wanted = worker_logs.Wanted(number, step, shard, role, worker, driver)
    try:
        with signals():
            found = worker_logs.tell(run_named(run), wanted, lambda line: echo(line.shown()), follow)
    except Interrupted as interrupted:
        raise typer.Exit(Interrupted.exit_code) from interrupted
    if not found:
        echo(f"nothing that a worker printed is kept in {run / 'logs'}, or none of it is what was asked for", err=True)


@looks.command("ratchet verify runs/irpo")
def verify(run: RunArgument, as_json: Json = False) -> None:
    """Check every file of a run, and the way from each promoted checkpoint to its prompts; exit code 1 on findings."""
    from orchestrator.commands.verify.command import verify as check

    report = check(run_named(run), show=terminal.watched() and not as_json)
    if as_json:
        echo_json(report.as_json())
    else:
        for line in (*report.findings, *report.unchecked, report.summary()):
            echo(line)
    raise typer.Exit(1 if report.findings else 0)
