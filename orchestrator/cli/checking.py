"""The commands that need no run: checks before one, grading, and what Ratchet says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import __version__
from orchestrator.cli.app import Group, JobArgument, Json, Overrides, Trust, telling
from orchestrator.config.load import resolved_yaml
from orchestrator.driver.resume import load
from orchestrator.driver.signals import signals
from orchestrator.text import terminal
from orchestrator.text.terminal import echo, echo_json

checks = Group("Check and look up")


@checks.command("ratchet validate jobs/irpo.yaml", "ratchet validate jobs/irpo.yaml rounds=5 --resolved")
def validate(
    job: JobArgument,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the job with every default filled in")] = False,
    trust: Trust = False,
) -> None:
    """Check a job file, its data and its model without running anything."""
    file = load(job, overrides or [], telling(trust))
    from orchestrator.commands.validate import check, told

    checked = check(file)
    if resolved:
        terminal.block(resolved_yaml(file.job))
        return
    for line in told(checked, job):
        echo(line)


@checks.command("ratchet plan jobs/irpo.yaml", "ratchet plan jobs/irpo-gsm8k.yaml --cluster 8xH100 --price 24")
def plan(
    job: JobArgument,
    overrides: Overrides = None,
    cluster: Annotated[
        str | None, typer.Option(help="For these machines instead of this one: 8xH100, or 4x8xH100 for four nodes")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="What an hour of all machines costs")] = None,
    as_json: Json = False,
    trust: Trust = False,
) -> None:
    """Tell what a job would do and take: steps, tokens, memory, disk, hours; exit code 1 where it cannot fit."""
    file = load(job, overrides or [], telling(trust))
    from orchestrator.commands.plan import command, told
    from orchestrator.commands.plan.devices import cluster as cluster_named
    from orchestrator.commands.validate import check
    from orchestrator.commands.validate import told as validated

    asked = cluster_named(cluster) if cluster else None
    found = command.plan(checked := check(file), asked)
    if as_json:
        for seen in found.seen:
            seen.check()
        echo_json(command.as_json(found, price))
    else:
        for line in validated(checked, job, found.seen, ()):
            echo(line)
        for line in told.lines(found, price):
            echo(line)
    raise typer.Exit(1 if found.refusals else 0)


@checks.command("ratchet doctor", "ratchet doctor jobs/irpo.yaml")
def doctor(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Job file, or `demo`; none checks what needs no job")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    limit: Annotated[
        float | None, typer.Option(min=1, max=86_400, help="Most seconds that each check may take")
    ] = None,
    trust: Trust = False,
) -> None:
    """Check whether the cluster is fit for a job; exit code 1 where a check fails."""
    from orchestrator.commands.doctor.command import examine
    from orchestrator.commands.doctor.patient import patient
    from orchestrator.driver.examination import Examination

    found, checks = patient(job, overrides or [], telling(trust)), []

    def tell(check: Any) -> None:
        checks.append(check)
        if not as_json:
            echo(check.line())

    with signals(), Examination(found.for_trial, found.runs / "logs") as examiner:
        sound = examine(found, examiner, tell, limit)
    if as_json:
        echo_json({"ok": sound, "checks": [check.as_json() for check in checks]})
    raise typer.Exit(0 if sound else 1)


@checks.command("ratchet grade answers.jsonl -o verdicts.jsonl --grader math --gold answer --text completion")
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


@checks.command("ratchet docs > job-file.md")
def docs() -> None:
    """Print the reference of the job file, in Markdown."""
    from orchestrator.config.job_docs import job_docs

    terminal.block(job_docs())


@checks.command("ratchet schema > ratchet.schema.json")
def schema() -> None:
    """Print the JSON Schema of the job file, by which editors complete and check one."""
    from orchestrator.config.schema import job_schema

    echo_json(job_schema())


@checks.command("ratchet version")
def version() -> None:
    """Print the version."""
    echo(__version__)
