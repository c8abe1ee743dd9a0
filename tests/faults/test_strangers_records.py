"""Runs of somebody else, whose records have a valid `check` and say anything: every command refuses them in one clear
message, or makes something sane of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import waste
from orchestrator.commands.rollback import roll_back
from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import drive, healthy_driver, identity
from orchestrator.driver.resume import load, resumed
from orchestrator.driver.same_job import check_same_job, check_same_problems, has_begun, reading_of
from orchestrator.errors import RatchetError
from orchestrator.files.durable import canonical, fingerprint, sha256
from orchestrator.ledger.kinds import KINDS
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.models.other_run import RunModel, find
from orchestrator.reports.inspection.checkpoints import checkpoint
from orchestrator.reports.inspection.pairs import pair
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.shown import Pages
from orchestrator.reports.inspection.views import Wanted, flips, overview, problem, samples
from orchestrator.reports.lineage import pair_files_of_reference, pair_files_trained_on
from orchestrator.reports.overview import render as render_list
from orchestrator.reports.overview import runs_in
from orchestrator.reports.report import report_text
from orchestrator.reports.status import intervals, render, status
from orchestrator.sources.registry import SOURCES
from tests.faults.children import note, scratch, small_project
from tests.faults.conftest import Shelf
from tests.support.stand_ins import StandIns, all_read, run_job

Place = tuple[str | int, ...]
SOME_STEPS = pytest.mark.parametrize(
    "stride", [12, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-one"]
)
MISSING = object()
HUGE = 10**30


def mutants(value: Any) -> list[Any]:
    """What stands in place of a value: other types, null, what is out of range, and nothing at all."""
    found = [None, "nan", "", -1, HUGE, 1e308, -0.5, math.nan, math.inf, True, [], {}, [[[[1]]]], {"a": {"b": [None]}}]
    found += ["../x", "/etc/passwd", "a\0b", MISSING]
    return [other for other in found if type(other) is not type(value) or other != value]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value, of lists and of files the first alone."""
    if at:
        yield at
    if isinstance(value, dict):
        below = list(value.items())
        for key, inner in below[:1] if at and at[-1] == "files" else below:
            yield from places(inner, (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def changed(data: dict[str, Any], at: Place, value: Any) -> dict[str, Any]:
    new = copy.deepcopy(data)
    inside: Any = new
    for key in at[:-1]:
        inside = inside[key]
    if value is MISSING:
        del inside[at[-1]]
    else:
        inside[at[-1]] = value
    return new


def seal(path: Path, **changes: Any) -> None:
    """Write a record anew with a `check` that fits; without one where no `check` can be made, as the first runs did."""
    document = json.loads(path.read_bytes())
    document |= changes
    del document["check"]
    try:
        path.write_bytes(canonical(document | {"check": fingerprint(document)}) + b"\n")
    except ValueError:
        path.write_text(json.dumps(document))


def readers(run: Path, aside: Path) -> dict[str, Callable[[], Any]]:
    """All that reads a run that is not driven, by the command's name."""

    def shown() -> None:
        Console(file=io.StringIO()).print(render(status(run), intervals(run)))

    def forked() -> None:
        child = aside / "child"
        try:
            fork(run, child, ["loss.beta=0.3"])
            status(child)
        finally:
            shutil.rmtree(child, ignore_errors=True)

    def goes_on() -> None:
        here = Run(run)
        for file in (resumed(run), load(run / "job.yaml")):
            check_same_job(here, file.job)
            check_same_problems(here, file.job, {"train": "0" * 32})
        reading_of(here)
        has_begun(here)

    def looked_into() -> None:
        reader, pages, screen = RunReader(run), Pages(full=True), Console(file=io.StringIO())
        screen.print(pages.overview(found := overview(reader), str(run)))
        for number in reader.rounds("verdicts"):
            screen.print(pages.samples(samples(reader, Wanted(number), limit=50)))
        for name in found["problems"]:
            screen.print(pages.problem(problem(reader, name)))
        if one := found["pair"]:
            screen.print(pages.pair(pair(reader, one["round"], one["pair_id"])))

    def changed_by() -> None:
        reader, pages, screen = RunReader(run), Pages(full=False), Console(file=io.StringIO())
        for number in filter(None, reader.rounds("evaluation")):
            screen.print(pages.flips(flips(reader, number, "gate", 5)))
            screen.print(pages.checkpoint(checkpoint(reader, number)))

    return {
        "status": shown,
        "list": lambda: Console(file=io.StringIO()).print(render_list(runs_in(run.parent), 0.0)),
        "inspect": looked_into,
        "inspect --flipped, --checkpoint": changed_by,
        "status --json": lambda: json.dumps(status(run), allow_nan=False),
        "report": lambda: report_text(run, SOURCES),
        "verify": lambda: json.dumps(verify(run).as_json()),
        "gc --dry-run": lambda: waste(run),
        "lineage": lambda: [pair_files_trained_on(run, 2), pair_files_of_reference(run, 2)],
        "model: run:": lambda: find(RunModel(str(run), None), "model", [aside], aside / "own"),
        "fork": forked,
        "resume": goes_on,
        "run": lambda: healthy_driver(run),
    }


def broken_by(run: Path, aside: Path) -> list[str]:
    """The commands that end in something else than a message, and in what."""
    found = []
    for name, read in readers(run, aside).items():
        try:
            read()
        except RatchetError as refused:
            assert str(refused).strip() and "\n\n\n" not in str(refused)
        except Exception as error:  # each is to be told
            trace, where = error.__traceback__, "?"
            while trace:
                where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
                trace = trace.tb_next
            found.append(f"{name}: {type(error).__name__} at {where}: {str(error)[:100]}")
    return found


def every_mutation(run: Path) -> list[tuple[Path, Place, Any]]:
    """Each place of one record of each kind, and of each kind of step, with everything that is put there."""
    kinds: dict[tuple[str, str, bool], Path] = {}
    for record in Ledger(run / "ledger").records:
        step, index = re.sub(r"\d+", "N", str(record.data.get("step"))), record.data.get("index") is None
        kinds[record.kind, step, index] = run / f"ledger/{record.number:08d}.json"
    found = []
    for path in kinds.values():
        data = json.loads(path.read_bytes())["data"]
        for at in places(data):
            value: Any = data
            for key in at:
                value = value[key]
            found += [(path, at, other) for other in mutants(value)]
    return found


def sweep(run: Path, aside: Path, stride: int, name: str) -> None:
    mutations = every_mutation(run)[::stride]
    broken: Counter[str] = Counter()
    told: dict[str, str] = {}
    for path, at, value in mutations:
        before = path.read_bytes()
        seal(path, data=changed(json.loads(before)["data"], at, value))
        for what in broken_by(run, aside):
            broken[what.rpartition(" at ")[2].partition(": ")[0]] += 1
            shown = "nothing" if value is MISSING else repr(value)
            told.setdefault(what.rpartition(" at ")[2].partition(": ")[0], f"{path.name} {at} = {shown}: {what}")
        path.write_bytes(before)
    note(f"records of somebody else: {name}", {"mutations": len(mutations), "tracebacks": sum(broken.values())})
    assert not broken, (
        f"{len(mutations)} mutations, {broken.total()} tracebacks at {len(broken)} places:\n"
        + "\n".join(f"{count:5} {told[place]}" for place, count in broken.most_common())
    )


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run with every kind of record: a fork of another one."""
    with scratch(tmp_path_factory.mktemp("stranger")) as folder:
        run_job(small_project(folder), StandIns(gain=0.1, steps=2, peak=1))
        fork(folder / "run", folder / "fork", ["loss.beta=0.2"])
        run_job(folder / "fork/job.yaml", StandIns(gain=0.1, steps=2, peak=1))
        roll_back(folder / "fork", 1, identity(), "to see")
        run_job(folder / "fork/job.yaml", StandIns(gain=0.1, steps=2, peak=1))
        kinds = {record.kind for record in Ledger(folder / "fork/ledger").records}
        assert kinds == {*KINDS}
        yield folder / "fork"


@pytest.mark.parametrize("stride", [997, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-one"])
def test_no_record_breaks_a_command(forked: Path, tmp_path: Path, stride: int) -> None:
    sweep(forked, tmp_path, stride, "sample")


def go_on(run: Path) -> None:
    """Drive a run that has nothing left to do: all that is committed is looked at."""
    drive(resumed(run), lambda _: None, [], lambda _job, _logs: StandIns(gain=0.1, steps=2, peak=1), ask=all_read)


def committed_kinds(run: Path) -> list[Path]:
    """One record of each kind of step and shard that is committed."""
    kinds: dict[str, Path] = {}
    for record in Ledger(run / "ledger").records:
        if record.kind in ("commit", "shard"):
            kinds[record.kind + re.sub(r"\d+", "N", record.data["step"])] = run / f"ledger/{record.number:08d}.json"
    return list(kinds.values())


def require_unbroken(run: Path, aside: Path) -> None:
    assert broken_by(run, aside) == []
    with contextlib.suppress(RatchetError):
        go_on(run)
    assert broken_by(run, aside) == []


@SOME_STEPS
def test_a_fact_that_is_missing_is_named(forked: Path, tmp_path: Path, stride: int) -> None:
    for path in committed_kinds(forked)[::stride]:
        run = tmp_path / path.stem
        shutil.copytree(forked, run)
        seal(run / "ledger" / path.name, data=json.loads(path.read_bytes())["data"] | {"facts": {}})
        require_unbroken(run, tmp_path)


@SOME_STEPS
def test_a_table_of_another_form_is_named(forked: Path, tmp_path: Path, stride: int) -> None:
    """The file is what was committed, and is made up."""
    other = pa.table({"prompt_id": pa.array([1, 2]), "token_ids": ["a", "b"], "step": ["x", "y"], "text": [None, None]})
    tried = 0
    for path in committed_kinds(forked)[::stride]:
        data = json.loads(path.read_bytes())["data"]
        for artifact in data.get("artifacts", [data.get("artifact")]):
            for name in [name for name in artifact["files"] if not name or name.endswith(".parquet")]:
                run = tmp_path / f"{path.stem}-{tried}"
                shutil.copytree(forked, run)
                file = run / artifact["path"] / name
                if not file.exists():  # it was discarded
                    continue
                pq.write_table(other, file)
                changes = copy.deepcopy(data)
                same = [changes["artifact"]] if "artifact" in changes else changes["artifacts"]
                said = next(a for a in same if a["path"] == artifact["path"])["files"][name]
                said |= {"size": file.stat().st_size, "sha256": sha256(file)}
                seal(run / "ledger" / path.name, data=changes)
                require_unbroken(run, tmp_path)
                tried += 1
    assert tried


@pytest.mark.faults
@pytest.mark.parametrize("source", ["steps", "steps, judge", "dataset", "judge", "gold", "hints", "waves"])
def test_no_record_of_another_source_breaks_a_command(shelf: Shelf, source: str, tmp_path: Path, space: Path) -> None:
    run = space / "run"
    shutil.copytree(shelf.calm(source).run, run)
    sweep(run, tmp_path, 7, source)
