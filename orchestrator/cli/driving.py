"""The commands that make and drive runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import Group, JobArgument, Json, NewRun, Overrides, RunArgument, Trust, interruptible, telling
from orchestrator.config.load import JobFile
from orchestrator.config.places import run_named
from orchestrator.driver.resume import command, load, resumed
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput
from orchestrator.files.named import whole
from orchestrator.text.counts import many
from orchestrator.text.terminal import Screen, echo, echo_json

runs = Group("Make and drive runs")
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live view, as in a pipe")]


@runs.command(
    "ratchet init my-job --data problems.jsonl --model models/base",
    "ratchet init my-quiz --data quiz.parquet --model ORG/NAME --task choice",
)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the job and its data")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="Problems or preference data: .jsonl, .json or .parquet")],
    model: Annotated[str, typer.Option(help="Base model, as in a job file: a folder, or ORG/NAME on the Hub")],
    task: Annotated[
        str | None, typer.Option(help="math, choice or preference; by default what the data look like")
    ] = None,
) -> None:
    """Make a job for your own data and model: fields found, three sets split, a job file with comments."""
    from orchestrator.commands.init.command import make

    with signals():
        made = make(folder, data, model, task)
    for said in made.lines():
        echo(said)
    echo(f"go on     ratchet validate {shlex.quote(str(made.job))}, which shows the prompts; then ratchet run")


@runs.command("ratchet run demo", "ratchet run jobs/irpo.yaml", "ratchet run jobs/irpo.yaml name=hot loss.beta=0.2")
def run(job: JobArgument, overrides: Overrides = None, trust: Trust = False, plain: Plain = False) -> None:
    """Run a job, or go on with it where it stopped; the job file in a run's folder goes on with that run."""
    with signals() as received:
        _drive(load(job, overrides or [], telling(trust)), received, plain)


@runs.command("ratchet resume runs/irpo", "ratchet resume runs/irpo rounds=5")
def resume(run: RunArgument, overrides: Overrides = None, trust: Trust = False, plain: Plain = False) -> None:
    """Go on with a run where it stopped, with the settings it has; KEY=VALUE changes those that change no result."""
    with signals() as received:
        _drive(resumed(run_named(run), overrides or [], telling(trust)), received, plain)


def drives(given: Sequence[str]) -> bool:
    """Whether a command line is of a command that drives runs, for which it is of little matter what is printed."""
    named = [word for word in given[1:] if not word.startswith("-")]
    return given[:1] in (["run"], ["resume"]) or (given[:1] == ["compare"] and bool(named) and not _are_runs(named))


def _are_runs(what: Sequence[str]) -> bool:
    """Whether what is to be compared are runs that are there; else it is a comparison's file."""
    return len(what) > 1 or Path(what[0]).is_dir()


def _drive(file: JobFile, received: Sequence[str], plain: bool) -> None:
    from orchestrator.commands.run import drive_told  # which brings pyarrow and more: `--help` need not wait for it

    raise typer.Exit(drive_told(file, received, plain))


@runs.command("ratchet fork runs/irpo runs/hot generate.temperature=1.3 --from-round 2")
def fork(
    run: RunArgument,
    new_run: NewRun,
    overrides: Overrides = None,
    from_round: Annotated[
        int | None, typer.Option("--from-round", help="Offer only the rounds before this one")
    ] = None,
    trust: Trust = False,
) -> None:
    """Make a new run with other settings, which takes over whatever they do not touch; lists what to expect."""
    from orchestrator.commands.fork.command import fork as make

    with signals():
        made = make(run_named(run), whole(new_run), overrides or [], from_round, tell=telling(trust))
    for fit in ("taken", "anew", "perhaps", "later"):
        offered = [step for step in made.offered if made.fit[step] == fit]
        for folder, steps in groupby(offered, key=lambda step: step.rpartition("/")[0]):
            shards = {step: f" ({many(made.offered[step], 'shard')})" if made.offered[step] else "" for step in steps}
            named = ", ".join(step.rpartition("/")[2] + count for step, count in shards.items())
            echo(f"{fit:<9} {folder}: {named}")
    if not made.offered:
        echo(f"nothing   is taken over: {run} has committed no step that could be")
    for step in made.removed:
        echo(f"not here  {step}: what it made was removed, and is needed again")
    for step in made.unseen:
        echo(f"not here  {step}: another version of the graders, or a judge that no record names, decided it")
    if "perhaps" in made.fit.values():
        echo("perhaps means: taken over where what it is made from comes out as it was, and else made anew")
    if "later" in made.fit.values():
        echo("later means: of rounds beyond; taken over only if the run is given more, rounds=N, before it is finished")
    echo(f"go on     {command(new_run)}{'' if made.trusted else ' --trust, which shows what needs trust'}")


@runs.command(
    "ratchet rollback runs/irpo --to-round 1", "ratchet rollback runs/irpo --to-round 0 --reason 'answers got longer'"
)
def rollback(
    run: RunArgument,
    to_round: Annotated[int, typer.Option("--to-round", min=0, help="Whose checkpoint it is; 0 is the base model")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger and the report")] = "",
) -> None:
    """Make an earlier round's checkpoint the reference again; what follows it is set aside, and a resume goes on."""
    from orchestrator.commands.rollback import going_on, roll_back
    from orchestrator.driver.drive import identity

    with interruptible():
        done = roll_back(run_named(run), to_round, identity(), reason)
    echo(done.line())
    echo(going_on(done))


@runs.command("ratchet rescore runs/irpo runs/lenient grade.strict=false --round 2")
def rescore(
    run: RunArgument,
    new_run: NewRun,
    overrides: Overrides = None,
    number: Annotated[int, typer.Option("--round", min=1, help="The first round that is graded again")] = 1,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Grade the stored samples of a round in another way (grade.KEY=VALUE), in a new run that shares them."""
    from orchestrator.commands.rescore import rescore as grade_again
    from orchestrator.commands.rescore import show

    screen, tell = Screen(err=as_json), telling(trust)
    with interruptible(err=as_json) as received:
        found = grade_again(run_named(run), whole(new_run), number, overrides or [], screen.say, received, tell=tell)
    if as_json:
        echo_json(found.as_json())
        return
    show(found, screen)
    echo(f"go on     {command(new_run)}")


@runs.command(
    "ratchet compare jobs/compare.yaml",
    "ratchet compare jobs/compare.yaml --table",
    "ratchet compare runs/irpo runs/hot@round2",
    "ratchet compare runs/irpo runs/hot --page compare.html",
)
def compare(
    what: Annotated[
        list[str], typer.Argument(metavar="FILE | RUN[@roundN]...", help="A comparison to run, or runs that are there")
    ],
    table: Annotated[bool, typer.Option("--table", help="Run nothing; make the table of what there is")] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Of runs: print one JSON object")] = False,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Of runs: write a page with charts and answers")
    ] = None,
) -> None:
    """Run several methods and seeds on the same problems and budgets, or go on with it; exit code 1 where one fails. Of
    runs that are there: show them side by side."""
    if _are_runs(what):
        from orchestrator.commands.compare import page as of_runs
        from orchestrator.commands.compare import side_by_side
        from orchestrator.commands.report import place_of

        place = place_of(page, "--page") if page else None
        with interruptible(err=as_json):
            side_by_side.show(what, as_json)
            if place:
                of_runs.write(what, place, as_json)
        return
    if page:
        raise BadInput(f"--page: {what[0]} is a comparison to run; a page is made of runs: `ratchet compare RUN RUN`")
    from orchestrator.commands.compare.told import compare_told

    raise typer.Exit(compare_told(Path(what[0]), table, telling(trust)))
