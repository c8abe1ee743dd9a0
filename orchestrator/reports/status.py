"""What a run is doing and has done, read from its ledger: a run that goes on, a dead one, or a copy."""

from __future__ import annotations

import difflib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.config.archive import filled_address
from orchestrator.errors import BadInput, Damaged
from orchestrator.files import strict_json
from orchestrator.files.inside import is_run
from orchestrator.files.processes import pid_exists, pid_namespace, process_start
from orchestrator.ledger.kinds import check_data
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.ledger.taken import parent
from orchestrator.records.abstentions import WORDS, abstained, causes
from orchestrator.reports.archived import archive_line, archived
from orchestrator.reports.columns import Reporting, checks_of
from orchestrator.reports.dashboard import dashboard
from orchestrator.reports.evidence import Evidence, by_ledger
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.health import health, words
from orchestrator.reports.rounds import accuracy, round_and_phase
from orchestrator.reports.symptoms import by_round
from orchestrator.text.counts import bracketed
from orchestrator.text.shown import line
from orchestrator.text.tables import FittingTable

SIGN_OF_LIFE_SECONDS = 60.0
"""A driver on another host counts as alive while its driver.json is younger than this."""
MAX_SIGN_OF_LIFE = 1 << 16
"""Bytes of a driver.json."""


def open_run(run_dir: Path) -> Ledger:
    """Read a run's ledger.

    Raises:
        BadInput: there is no run in this folder; the message names those nearby.
    """
    if (run_dir / "ledger").is_dir():
        ledger = Ledger(run_dir / "ledger")
        if ledger.records:
            return ledger
    if (run_dir / "ledger").is_dir():
        what = "its ledger has no record yet: its driver was killed as it began, or begins. `ratchet run JOB` begins it"
    elif not run_dir.exists():
        what = "no such run"
    elif run_dir.is_dir():
        what = "not a run: it has no ledger"
    else:
        what = "not a run: a run is a folder"
    raise BadInput(f"{run_dir}: {what}. {_runs_nearby(run_dir)}")


def _runs_nearby(run_dir: Path) -> str:
    here = run_dir.absolute()
    for folder in (here, here.parent):  # perhaps the folder of runs was given instead of a run
        names = sorted(path.parent.name for path in folder.glob("*/ledger") if is_run(path.parent))
        if names:
            close = difflib.get_close_matches(here.name, names, n=1)
            listing = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            return f"Runs in {folder}: {listing}." + (f" Did you mean {close[0]}?" if close else "")
    return f"{here.parent} holds no runs."


def run_state(run_dir: Path, state: State) -> str:
    """running, finished, interrupted, failed, stopped, or "not started" for a fork that no driver has driven yet.

    A driver that says how it ended is believed. One that has not either still runs, or died without a
    word, which counts as interrupted: it can be resumed.
    """
    if state.end is not None:
        # Earlier versions wrote `interrupted` for a fork, too, in the one epoch that it takes to make one.
        made = state.epoch == 1 and bool(state.configs) and "parent" in state.configs[-1]
        return "not started" if made and state.end["state"] == "interrupted" else str(state.end["state"])
    return "running" if _driver_is_alive(run_dir, state.driver) else "interrupted"


def _driver_is_alive(run_dir: Path, claim: Mapping[str, Any]) -> bool:
    file = run_dir / "driver.json"
    try:
        driver = strict_json.read_object(file, MAX_SIGN_OF_LIFE, run_dir)
        check_data("claim", driver)
        age = time.time() - file.stat().st_mtime
    except (OSError, ValueError, Damaged):
        # No sign of life can be read: not written yet, or taken away with an older driver. The claim
        # names the process as well, which settles it on this host.
        driver, age = dict(claim), SIGN_OF_LIFE_SECONDS
    if _is_elsewhere(driver, run_dir):
        return False
    try:
        host, pid, started = str(driver["host"]), int(driver["pid"]), driver.get("process_start")
    except (KeyError, TypeError):  # it names no process
        return False
    # Containers may have the name of their host; what runs in another one has no number here.
    if host != socket.gethostname() or driver.get("pid_namespace") not in (None, pid_namespace()):
        return age < SIGN_OF_LIFE_SECONDS
    if started is None:  # a system without /proc
        return pid_exists(pid) and age < SIGN_OF_LIFE_SECONDS
    # Numbers of dead processes are given out again; the start time tells a namesake from the driver.
    now = process_start(pid)
    return now is not None and abs(now - float(started)) < 0.1


def _is_elsewhere(driver: Mapping[str, Any], run_dir: Path) -> bool:
    """Whether a sign of life came here in a copy of the run that its driver drives."""
    named = driver.get("run")
    try:
        return named is not None and not os.path.samefile(named, run_dir)
    except OSError:
        return False  # a driver on another machine may see the run at another path


def reference_path(run_dir: Path, state: State) -> str | None:
    """The current reference, an absolute path."""
    base = (state.configs[-1].get("model") or state.configs[-1]["job"]["model"]) if state.configs else None
    reference = state.promotions[-1]["reference"] if state.promotions else base
    # A model of the run has a path relative to it; a base model elsewhere has an absolute one, which stays.
    return None if reference is None else str((run_dir / str(reference)).absolute())


def status(run_dir: Path, sources: Mapping[str, Reporting] | None = None) -> dict[str, Any]:
    """A run's state as a JSON value; its keys are an interface. `sources` are those of pairs, by name: they know more
    to be warned of.

    Returns `name`, `state` (running, finished, interrupted, failed, stopped, not started), `reason` (why it ended so,
    in words, or null), `reference` (an absolute path, or null), `seed` (where a base model that the run keeps is from:
    `id` and `revision`, or `run`, `run_id`, `round` and `digest`; else null), `parent` (the folder of the run that it
    was forked from, or null), `archive` (as `archived` says), `dashboard` (as `dashboard` says), `baseline` (the base
    model's test accuracy, a fraction, or null) and `rounds`: a list of `round`, `promoted` (null while undecided), the
    counts `samples`, `correct`, `wrong`, `ungradable` and `pairs` (null while nothing of their phase is done, or where
    a round has none), `causes` (how many samples are ungradable why, as far as it is known), `accuracy` (on test, or
    null), `tests` (on further test sets, by name), `unsolved` (test answers that count as not solved since they are
    ungradable, by cause), `seconds` by phase, `taken_over`, the phases that the run has from its parent, of which no
    seconds are told, and `halved`: by phase what it was done with half of since memory was short, by key. `unsolved` of
    the base model is `baseline_unsolved`. `gate` is what the gate has said, in a sentence (or null), `health` the
    figures that are known (health.py), and `warnings` what has turned (symptoms.py). A phase in progress is counted as
    far as it is committed. `rollbacks` are those that people have made, in order: `to_round`, the rounds that were
    `set_aside` and are in `rounds` no more unless they were done again, the `reason` that was given, and all of it in a
    `line`.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a ledger record cannot be read.
    """
    ledger = open_run(run_dir)
    state = ledger.state
    baseline = state.commits.get("baseline/evaluation")
    job = state.configs[-1]["job"] if state.configs else {}
    base, done = by_ledger(state)
    found = by_round(base, done, checks_of(job, sources))
    return {
        "name": job.get("name", run_dir.absolute().name),
        "state": (now := run_state(run_dir, state)),
        "reason": reason(state, now),
        "reference": reference_path(run_dir, state),
        "seed": _base_origin(state),
        "parent": parent(state),
        "archive": archived(run_dir, _archive(job), len(ledger.records)),
        "dashboard": dashboard(run_dir, job.get("tracking", {})) if job else None,
        "baseline": accuracy(baseline.facts if baseline else None),
        "baseline_unsolved": causes((baseline.facts if baseline else {}).get("test")),
        "rounds": [_round_status(evidence, found[evidence.round.number]) for evidence in done],
        "rollbacks": [
            {"to_round": r.round, "set_aside": list(r.rounds), "reason": r.reason, "line": r.line()}
            for r in state.rollbacks
        ],
    }


def reason(state: State, now: str) -> str | None:
    """Why a run is in the state that it is in `now`, in words, where that is known."""
    if state.end is not None:
        return str(state.end.get("reason") or "") or None
    return "its driver died without a word" if now == "interrupted" else None


def _archive(job: Mapping[str, Any]) -> str | None:
    address = job.get("archive")
    return filled_address(str(address), str(job.get("name")), int(job.get("seed", 0))) if address else None


def _base_origin(state: State) -> dict[str, Any] | None:
    kept = state.commits.get("baseline/model")
    origin = {key: value for key, value in kept.facts.items() if key != "seconds"} if kept else {}
    return origin or None


def _round_status(evidence: Evidence, warnings: Sequence[str]) -> dict[str, Any]:
    round_ = evidence.round
    return {
        "round": round_.number,
        "promoted": None if round_.promotion is None else bool(round_.promotion["promoted"]),
        "samples": round_.known("samples", "samples"),
        "correct": round_.known("verdicts", "correct"),
        "wrong": round_.known("verdicts", "wrong"),
        "ungradable": round_.known("verdicts", "ungradable"),
        "causes": causes({cause: round_.count("verdicts", cause) for cause in WORDS}),
        "pairs": round_.known("pairs", "pairs"),
        "accuracy": accuracy(round_.facts.get("evaluation")),
        "tests": {name: figures["accuracy"] for name, figures in evidence.further.items()},
        "unsolved": causes(round_.facts.get("evaluation", {}).get("test")),
        "seconds": {phase: took for phase in round_.facts if (took := round_.seconds(phase)) is not None},
        "taken_over": [phase for phase in round_.facts if phase in round_.taken_over],
        "halved": round_.halved(),
        "gate": gate_said(round_.promotion, round_.facts.get("evaluation")) if round_.promotion else None,
        "health": health(evidence),
        "warnings": list(warnings),
    }


def intervals(run_dir: Path) -> dict[int, tuple[float, float]]:
    """95 % intervals of the test accuracies by round, round 0 being the base model."""
    state = open_run(run_dir).state
    interval_by_round: dict[int, tuple[float, float]] = {}
    for step, commit in state.commits.items():
        number, phase = round_and_phase(step)
        if phase == "evaluation" and commit.facts.get("test"):
            interval_by_round[number] = (float(commit.facts["test"]["low"]), float(commit.facts["test"]["high"]))
    return interval_by_round


_COLOURS = {"running": "cyan", "finished": "green", "failed": "red"}
_COUNTS = ("samples", "correct", "wrong", "ungradable", "pairs")
_HEADINGS = ("round", "samples", "correct", "wrong", "ungr.", "pairs", "test", "95 %", "gain", "time", "promoted")
"""Of the table, which fits 80 columns."""
_LEFT_OUT = (_HEADINGS[1:5], _HEADINGS[1:6], (*_HEADINGS[1:6], "95 %", "time"))
"""Columns that go where it is narrower, as many as must."""


def render(status: Mapping[str, Any], intervals: Mapping[int, tuple[float, float]] | None = None) -> RenderableType:
    """A status for a terminal: a table of rounds with test accuracy, gain over the round before and seconds.

    `intervals` (see the function of that name) adds the 95 % interval of each accuracy.
    """
    intervals = intervals or {}
    before, rows = status["baseline"], [["base", *[""] * len(_COUNTS), _percent(status["baseline"])]]
    rows[0] += [_interval(intervals.get(0)), "", "", ""]
    for row in status["rounds"]:
        gain = None if row["accuracy"] is None or before is None else row["accuracy"] - before
        cells = [str(row["round"]), *("–" if row[key] is None else f"{row[key]:,}" for key in _COUNTS)]
        cells += [_percent(row["accuracy"]), _interval(intervals.get(row["round"]))]
        cells.append("" if gain is None else f"{100 * gain:+.1f}")
        cells.append(f"{sum(row['seconds'].values()):.0f} s" if row["seconds"] or not row["taken_over"] else "")
        rows.append([*cells, {None: "", True: "yes", False: "no"}[row["promoted"]]])
        if row["promoted"]:  # a refused round is not what the next one starts from
            before = row["accuracy"]
    colour = _COLOURS.get(status["state"], "yellow")
    why = f": {status['reason']}" if status.get("reason") else ""
    title = Text.assemble((line(status["name"]), "bold"), "  ", (line(status["state"]), colour), line(why))
    base = [Text(line(f"base model: {_origin(status['seed'])}"))] if status["seed"] else []
    notes = [Text(line(said)) for said in _abstentions(status)]
    taken = [row for row in status["rounds"] if row["taken_over"]]
    name = Path(status["parent"]).name if status["parent"] else "another run"
    told = (f"round {row['round']}: {', '.join(row['taken_over'])} taken over from {name}" for row in taken)
    left = [Text(line(said)) for said in told]
    half = [Text(line(said)) for row in status["rounds"] for said in halvings(row["round"], row.get("halved", {}))]
    well = [Text(line(said)) for said in _health(status)]
    ill = [
        Text(line(f"! round {row['round']}: {said}"), "yellow") for row in status["rounds"] for said in row["warnings"]
    ]
    kept = [Text(line(archive_line(status["archive"])))] if status.get("archive") else []
    back = [Text(line(told["line"])) for told in status.get("rollbacks", ())]
    start = [Text(line(f"reference: {status['reference']}"))] if status["reference"] else []
    return Group(
        title,
        *base,
        *start,
        *back,
        *kept,
        Text(""),
        FittingTable(_HEADINGS, rows, _LEFT_OUT),
        *left,
        *half,
        *notes,
        *well,
        *ill,
    )


def _health(status: Mapping[str, Any]) -> Iterator[str]:
    """What the gate has said of each round, and the newest round's health, for people."""
    for row in status["rounds"]:
        if row["gate"]:
            yield f"round {row['round']} {row['gate']}"
    if known := [row for row in status["rounds"] if row["health"]]:
        yield f"health of round {known[-1]['round']}: {'; '.join(words(known[-1]['health']))}"


def halvings(number: int, half_by_phase: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What phases of a round were done with half of, for people; as `RoundStatus.halved` has it."""
    for phase, settings in half_by_phase.items():
        with_ = ", ".join(f"{key}, {value}" for key, value in settings.items())
        yield f"round {number}: {phase} with half of {with_}, since memory was short"


def _abstentions(status: Mapping[str, Any]) -> Iterator[str]:
    """Why there is no verdict where there is none, for people."""
    base = {"round": "base", "causes": {}, "unsolved": status.get("baseline_unsolved", {})}
    for row in (base, *status["rounds"]):
        what = {"samples": row.get("causes"), "test answers, which count as not solved": row.get("unsolved")}
        told = [f"{name}: {abstained(why)}" for name, why in what.items() if why]
        if told:
            where = "the base model" if row["round"] == "base" else f"round {row['round']}"
            yield f"ungradable in {where}, {'; '.join(told)}"


def _origin(origin: Mapping[str, Any]) -> str:
    if "run" in origin:
        return f"round {origin.get('round')} of the run {origin['run']}"
    return f"{origin.get('id')} at commit {origin.get('revision')}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else bracketed(*bounds)
