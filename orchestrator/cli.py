"""The commands. A user's mistake ends in one clear message and exit code 2, never in a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import __version__
from orchestrator.config.load import JobFile, resolved_yaml
from orchestrator.config.places import run_named
from orchestrator.driver.resume import command, load, resumed
from orchestrator.driver.signals import signals
from orchestrator.driver.trust import Tell
from orchestrator.errors import Interrupted, RatchetError
from orchestrator.files.disk import unusable
from orchestrator.files.named import whole
from orchestrator.text import shown, terminal
from orchestrator.text.terminal import Screen, echo, echo_json

app = typer.Typer(
    name="ratchet",
    help="Iterative self-improvement of language models: generate, score, pair, train, evaluate, promote.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
JobArgument = Annotated[Path, typer.Argument(metavar="JOB", help="Job file, such as jobs/irpo.yaml, or `demo`")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to override")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as runs/irpo")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Show and approve what of a run's own settings needs trust: docs/threats.md")
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live view, as in a pipe")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]


@app.command()
def run(job: JobArgument, overrides: Overrides = None, trust: Trust = False, plain: Plain = False) -> None:
    """Run a job, or go on with it where it stopped; the job file in a run's folder goes on with that run."""
    with signals() as received:
        _drive(load(job, overrides or [], _tell(trust)), received, plain)


@app.command()
def resume(run: RunArgument, overrides: Overrides = None, trust: Trust = False, plain: Plain = False) -> None:
    """Go on with a run where it stopped, with the settings it has; KEY=VALUE changes those that change no result."""
    with signals() as received:
        _drive(resumed(run_named(run), overrides or [], _tell(trust)), received, plain)


def _drive(file: JobFile, received: Sequence[str], plain: bool) -> None:
    from orchestrator.commands.run import drive_told  # which brings pyarrow and more: `--help` need not wait for it

    raise typer.Exit(drive_told(file, received, plain))


def _tell(trust: bool) -> Tell | None:
    return (lambda text: terminal.block(text, err=True)) if trust else None


@app.command()
def status(
    run: RunArgument,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on for as long as the run is driven")] = False,
) -> None:
    """Show what a run has done, and whether it is running."""
    from orchestrator.commands import status as command

    command.show(run_named(run), as_json, watch)


@app.command()
def ui(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Run folder, or a folder of runs; by default the project's")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; by default a free one")] = None,
) -> None:
    """Serve the dashboard of a project's runs on this machine, and print the addresses of its pages; Ctrl-C ends it."""
    from orchestrator.commands.ui import look

    look(run_named(run) if run else None, port)


@app.command()
def track(
    run: RunArgument,
    to: Annotated[str | None, typer.Option("--to", help="MLflow's address; by default the run's own")] = None,
    experiment: Annotated[str | None, typer.Option(help="Name of the experiment; by default the run's own")] = None,
) -> None:
    """Send a run to MLflow, from its beginning: what is there already is not sent again."""
    from orchestrator.commands.track import tell_track

    tell_track(run_named(run), to, experiment)


@app.command()
def logs(
    run: RunArgument,
    number: Annotated[int | None, typer.Option("--round", min=0, help="Only of this round; 0 is the baseline")] = None,
    step: Annotated[str | None, typer.Option(help="Only of this step, such as rounds/01/samples, or samples")] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="Only of this shard of a step")] = None,
    role: Annotated[str | None, typer.Option(help="Only of this kind of worker: engine, rank, grader, ray")] = None,
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


@app.command()
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


@app.command()
def gc(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed")] = False,
) -> None:
    """Remove what no promoted checkpoint of a run needs: see `keep` of its job, and what dead drivers left."""
    from orchestrator.commands.gc import clean, waste
    from orchestrator.driver.drive import identity

    run = run_named(run)
    try:
        with signals():
            found = waste(run) if dry_run else clean(run, identity())
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; the same command goes on from here")
        raise typer.Exit(Interrupted.exit_code) from interrupted
    for item in found:
        echo(f"{item.size:>16,}  {item.path}  ({item.why})")
    echo(f"{sum(item.size for item in found):>16,}  bytes {'would be ' if dry_run else ''}removed from {run}")


@app.command()
def fork(
    run: RunArgument,
    new_run: Annotated[Path, typer.Argument(metavar="NEWRUN", help="Folder of the new run, such as runs/irpo-2")],
    overrides: Overrides = None,
    from_round: Annotated[
        int | None, typer.Option("--from-round", help="Offer only the rounds before this one")
    ] = None,
    trust: Trust = False,
) -> None:
    """Make a new run with other settings, which takes over whatever they do not touch; lists what to expect."""
    from orchestrator.commands.fork.command import fork as make

    with signals():
        made = make(run_named(run), whole(new_run), overrides or [], from_round, tell=_tell(trust))
    for fit in ("taken", "anew", "perhaps"):
        offered = [step for step in made.offered if made.fit[step] == fit]
        for folder, steps in groupby(offered, key=lambda step: step.rpartition("/")[0]):
            shards = {step: f" ({made.offered[step]} shards)" if made.offered[step] else "" for step in steps}
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
    echo(f"go on     {command(new_run)}{'' if made.trusted else ' --trust, which shows what needs trust'}")


@app.command()
def archive(
    run: RunArgument,
    address: Annotated[str | None, typer.Argument(metavar="[URL]", help="Where to; by default the job's own")] = None,
) -> None:
    """Copy a run to an address (S3, another disk), or mend the copy: all that is there is looked at."""
    from orchestrator.commands.archive import archive as send

    try:
        with signals():
            made = send(run_named(run), address)
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; the same command goes on from here")
        raise typer.Exit(Interrupted.exit_code) from interrupted
    echo(made.line())


@app.command()
def fetch(
    address: Annotated[str, typer.Argument(metavar="URL", help="Where the run is archived")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of the run; by default runs/NAME")
    ] = None,
) -> None:
    """Bring a run back from its archive; what is cut off goes on with the same command."""
    from orchestrator.commands.fetch import fetch as bring

    try:
        with signals():
            found = bring(address, folder, show=terminal.watched())
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; the same command goes on from here")
        raise typer.Exit(Interrupted.exit_code) from interrupted
    for line in found.lines():
        echo(line)
    echo(f"go on     {command(found.root)}{'' if found.trusted else ' --trust, which shows what needs trust'}")


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Comparison, such as jobs/compare.yaml")],
    table: Annotated[bool, typer.Option("--table", help="Run nothing; make the table of what there is")] = False,
    trust: Trust = False,
) -> None:
    """Run several methods and seeds on the same problems and budgets, or go on with it; exit code 1 where one fails."""
    from orchestrator.commands.compare.told import compare_told

    raise typer.Exit(compare_told(file, table, _tell(trust)))


@app.command()
def rescore(
    run: RunArgument,
    new_run: Annotated[Path, typer.Argument(metavar="NEWRUN", help="Folder of the new run, such as runs/irpo-2")],
    overrides: Overrides = None,
    number: Annotated[int, typer.Option("--round", min=1, help="The first round that is graded again")] = 1,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Grade the stored samples of a round in another way (grade.KEY=VALUE), in a new run that shares them."""
    from orchestrator.commands.rescore import rescore as grade_again
    from orchestrator.commands.rescore import show

    screen, tell = Screen(err=as_json), _tell(trust)
    try:
        with signals() as received:
            found = grade_again(
                run_named(run), whole(new_run), number, overrides or [], screen.say, received, tell=tell
            )
    except Interrupted as interrupted:
        screen.say(f"interrupted by {interrupted}; the same command goes on from here")
        raise typer.Exit(Interrupted.exit_code) from interrupted
    if as_json:
        echo_json(found.as_json())
        return
    show(found, screen)
    echo(f"go on     {command(new_run)}")


@app.command()
def validate(
    job: JobArgument,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the job with every default filled in")] = False,
    trust: Trust = False,
) -> None:
    """Check a job file, its data and its model without running anything."""
    file = load(job, overrides or [], _tell(trust))
    from orchestrator.commands.validate import check, told

    checked = check(file)
    if resolved:
        terminal.block(resolved_yaml(file.job))
        return
    for line in told(checked, job):
        echo(line)


@app.command()
def doctor(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Job file, or `demo`; none checks what needs no job")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    limit: Annotated[float | None, typer.Option(min=1, help="Most seconds that each check may take")] = None,
    trust: Trust = False,
) -> None:
    """Check whether the cluster is fit for a job; exit code 1 where a check fails."""
    from orchestrator.commands.doctor.command import examine
    from orchestrator.commands.doctor.patient import patient
    from orchestrator.driver.examination import Examination

    found, checks = patient(job, overrides or [], _tell(trust)), []

    def tell(check: Any) -> None:
        checks.append(check)
        if not as_json:
            echo(check.line())

    with signals(), Examination(found.for_trial, found.runs / "logs") as examiner:
        sound = examine(found, examiner, tell, limit)
    if as_json:
        echo_json({"ok": sound, "checks": [check.as_json() for check in checks]})
    raise typer.Exit(0 if sound else 1)


@app.command()
def grade(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSONL, a JSON array or Parquet: a gold answer and a text a row")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the verdicts go: .jsonl or .parquet")],
    grader: Annotated[list[str] | None, typer.Option(help="As in `grade.graders` of a job; may be repeated")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="As in `grade.answer` of a job; may be repeated")] = None,
    strict: Annotated[bool, typer.Option("--strict/--lenient", help="Lenient guesses: see `grade.strict`")] = True,
    gold: Annotated[str, typer.Option(help="Field with the gold answer")] = "gold",
    text: Annotated[str, typer.Option(help="Field with the completion")] = "text",
    gold_marker: Annotated[str | None, typer.Option(help="The gold answer is what follows the last of these")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one answer may take")] = None,
    processes: Annotated[int | None, typer.Option(help="Number of grader processes; one a core by default")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model of `--grader judge`; key in OPENAI_API_KEY")] = None,
    judge_url: Annotated[str | None, typer.Option(help="Its address; see `judge.base_url` of a job")] = None,
    unreadable: Annotated[str | None, typer.Option(help="As `grade.unreadable`: `ungradable` or `wrong`")] = None,
    thoughts: Annotated[
        list[str] | None,
        typer.Option(help="As in `grade.thoughts`: a mark that ends thoughts; may be repeated; '' for no mark"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Grade a file of answers: verdict, extracted answer, rule, reason and cause beside each row, in order."""
    from orchestrator.commands.grade import command as grading
    from orchestrator.commands.grade.file import Fields

    options = grading.Options(grader, answer, strict, timeout, processes, judge_model, judge_url, unreadable, thoughts)
    with signals():
        grading.grade(file, output, Fields(gold, text, gold_marker), options, as_json)


@app.command()
def docs() -> None:
    """Print the reference of the job file, in Markdown."""
    from orchestrator.config.job_docs import job_docs

    terminal.block(job_docs())


@app.command()
def version() -> None:
    """Print the version."""
    echo(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Run the command that is asked for, by default on the command line, and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    with terminal.shielded() as shield:
        code = _run_command(given)
        # What a run is for is in its folder; of other commands, what they print.
        if code == 0 and shield.unprinted and given[:1] not in (["run"], ["resume"], ["compare"]):
            terminal.echo(f"ratchet: what it prints cannot be written: {shield.unprinted}", err=True)
            code = RatchetError.exit_code
    sys.exit(code)


def _run_command(arguments: list[str]) -> int:
    """The exit code of a command."""
    try:
        app(arguments)
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # typer takes it for a reader of ours who left
            terminal.echo_traceback()
        return left.code if isinstance(left.code, int) else 0 if left.code is None else RatchetError.exit_code
    except RatchetError as error:
        terminal.failure(error, arguments)
        return error.exit_code
    except (Interrupted, KeyboardInterrupt):
        return Interrupted.exit_code
    except OSError as error:  # wherever a name that was given is first looked for
        if told_as := unusable(error):
            terminal.failure(shown.line(told_as))
            return told_as.exit_code
        terminal.echo_traceback()
    except Exception:
        terminal.echo_traceback()
    return RatchetError.exit_code
