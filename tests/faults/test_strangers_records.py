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
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.commands.compare.page import document as compared_document
from orchestrator.commands.compare.page import page as compared_page
from orchestrator.commands.compare.side_by_side import as_json, side
from orchestrator.commands.compare.side_by_side import render as render_sides
from orchestrator.commands.export.command import export_model, export_pairs
from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import waste
from orchestrator.commands.plan.earlier import find as find_earlier
from orchestrator.commands.rollback import roll_back
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive, healthy_driver, identity
from orchestrator.driver.kept import has_begun
from orchestrator.driver.resume import load, resumed
from orchestrator.driver.same_job import check_same_job, check_same_problems, reading_of
from orchestrator.errors import Damaged, RatchetError
from orchestrator.files.durable import canonical, fingerprint, sha256
from orchestrator.ledger import columns
from orchestrator.ledger.columns import require_columns
from orchestrator.ledger.kinds import KINDS, check_data
from orchestrator.ledger.ledger import Ledger, State
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
from orchestrator.reports.page.page import document, page
from orchestrator.reports.report import report_text
from orchestrator.reports.status import intervals, render, status
from orchestrator.sources.registry import SOURCES
from orchestrator.text.terminal import Lasting, Screen
from tests.faults.children import note, scratch, small_project
from tests.faults.conftest import Shelf
from tests.faults.test_odd_paths import Waiting, bounded
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

    def compared() -> None:
        other = run.parent / "run" if run.name != "run" else run
        for named in ([f"{run}@round1", str(run)], [str(other), str(run)]):
            json.dumps(as_json(sides := [side(one) for one in named]), allow_nan=False)
            Screen(file=Lasting(io.StringIO())).print(render_sides(sides))
        compared_page(compared_document([str(run), str(other)]))

    def taken_away(export: Callable[[str, Path], object]) -> None:
        try:
            export(str(run), aside / "away")
        finally:
            shutil.rmtree(aside / "away", ignore_errors=True)

    def planned() -> None:
        """By a job whose folder of runs has this one in it."""
        find_earlier(run / "none", State(), load_job(run / "job.yaml").job, str(run.parent / "seed"), run.parent)

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
        "page": lambda: page(document(run, SOURCES, Ledger(run / "ledger"))),
        "compare": compared,
        "export": lambda: taken_away(export_model),
        "export --pairs": lambda: taken_away(export_pairs),
        "plan": planned,
        "verify": lambda: json.dumps(verify(run).as_json()),
        "gc --dry-run": lambda: waste(run),
        "lineage": lambda: [pair_files_trained_on(run, 2), pair_files_of_reference(run, 2)],
        "model: run:": lambda: find(RunModel(str(run), None), "model", [aside], aside / "own"),
        "fork": forked,
        "resume": goes_on,
        "run": lambda: healthy_driver(run),
    }


def broken_by(run: Path, aside: Path, names: Collection[str] = ()) -> list[str]:
    """The commands that end in something else than a message, or take a minute or 2 GiB, and in what; of all, or of
    these names."""
    found = []
    for name, read in readers(run, aside).items():
        if names and name not in names:
            continue
        try:
            with bounded():
                read()
        except RatchetError as refused:
            assert str(refused).strip() and "\n\n\n" not in str(refused)
        except (Exception, Waiting) as error:  # each is to be told
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


def is_refused(kind: Any, data: dict[str, Any]) -> bool:
    """Whether no record may say so: whoever reads the ledger is told by the same few lines of code."""
    try:
        check_data(kind, data)
    except ValueError:
        return True
    return False


QUICK = ("status", "verify", "list")
"""Three that stand for all where a record is refused; of every 40th such, all are tried."""


def sweep(run: Path, aside: Path, part: slice, name: str) -> None:
    mutations = every_mutation(run)[part]
    broken: Counter[str] = Counter()
    told: dict[str, str] = {}
    for number, (path, at, value) in enumerate(mutations):
        before = path.read_bytes()
        document = json.loads(before)
        data = changed(document["data"], at, value)
        seal(path, data=data)
        for what in broken_by(run, aside, QUICK if number % 40 and is_refused(document["kind"], data) else ()):
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


PARTS = 8
_EVERY_ONE = [pytest.param(slice(n, None, PARTS), marks=pytest.mark.faults, id=f"part-{n}") for n in range(PARTS)]


@pytest.mark.parametrize("part", [pytest.param(slice(None, None, 1499), id="sample"), *_EVERY_ONE])
def test_no_record_breaks_a_command(forked: Path, tmp_path: Path, part: slice) -> None:
    sweep(forked, tmp_path, part, "sample")


def test_a_limit_that_no_column_of_integers_holds_breaks_no_command(forked: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(forked, tmp_path / "run"))
    changed_records = 0
    for record in Ledger(run / "ledger").records:
        if record.kind == "config":
            seal(
                run / f"ledger/{record.number:08d}.json",
                data=changed(record.data, ("job", "train", "max_tokens"), HUGE),
            )
            changed_records += 1
    assert changed_records and broken_by(run, tmp_path) == []


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


def tables(run: Path, stride: int) -> Iterator[tuple[Path, Path, str]]:
    """The tables that are there of one step of each kind: the record that commits it, the path in the run of what is
    committed, and the file's name in it."""
    for path in committed_kinds(run)[::stride]:
        data = json.loads(path.read_bytes())["data"]
        for artifact in data.get("artifacts", [data.get("artifact")]):
            for name in [name for name in artifact["files"] if not name or name.endswith(".parquet")]:
                if (run / artifact["path"] / name).exists():  # else it was discarded
                    yield path, Path(artifact["path"]), name


def commit_instead(run: Path, record: Path, path: Path, name: str, table: pa.Table) -> None:
    """Have a run's record, and its file, be of another table."""
    file, data = run / path / name, json.loads(record.read_bytes())["data"]
    pq.write_table(table, file)
    same = [data["artifact"]] if "artifact" in data else data["artifacts"]
    said = next(artifact for artifact in same if artifact["path"] == str(path))["files"][name]
    said |= {"size": file.stat().st_size, "sha256": sha256(file)}
    seal(run / "ledger" / record.name, data=data)


@SOME_STEPS
def test_a_table_of_another_form_is_named(forked: Path, tmp_path: Path, stride: int) -> None:
    """The file is what was committed, and is made up."""
    other = pa.table({"prompt_id": pa.array([1, 2]), "token_ids": ["a", "b"], "step": ["x", "y"], "text": [None, None]})
    tried = 0
    for record, path, name in tables(forked, stride):
        run = tmp_path / f"{record.stem}-{tried}"
        shutil.copytree(forked, run)
        commit_instead(run, record, path, name, other)
        require_unbroken(run, tmp_path)
        tried += 1
    assert tried


@pytest.mark.parametrize(
    "part",
    [pytest.param(slice(3, 5), id="sample"), pytest.param(slice(None), marks=pytest.mark.faults, id="every-one")],
)
def test_a_table_without_values_is_named(forked: Path, tmp_path: Path, part: slice) -> None:
    """Nulls where no file of ours has any, in columns of the right types."""
    cases, named = [], 0
    for record, path, name in tables(forked, 1):
        table = pq.read_table(forked / path / name)
        cases += [(record, path, name, table, field) for field in table.schema if not field.nullable]
    for number, (record, path, name, table, field) in enumerate(cases[part]):
        run, at = tmp_path / str(number), table.schema.names.index(field.name)
        shutil.copytree(forked, run)
        empty = table.set_column(at, field.with_nullable(True), pa.nulls(table.num_rows, field.type))
        commit_instead(run, record, path, name, empty)
        assert broken_by(run, tmp_path) == []
        if table.num_rows and field.name in columns._NEVER_NULL:
            with pytest.raises(Damaged, match=f"its column `{field.name}` has rows without a value"):
                require_columns(run / path / name, run)
            named += 1
        shutil.rmtree(run)
    assert named


def test_a_null_among_token_ids_is_named(forked: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(forked, tmp_path / "run"))
    record, path, name = next(found for found in tables(forked, 1) if found[1].name == "pairs")
    table = pq.read_table(forked / path / name)
    at, kind = table.schema.names.index("prompt_token_ids"), table.schema.field("prompt_token_ids")
    commit_instead(
        run, record, path, name, table.set_column(at, kind, pa.array([[7, None]] * table.num_rows, kind.type))
    )
    assert broken_by(run, tmp_path) == []
    with pytest.raises(Damaged, match="its column `prompt_token_ids` has rows without a value"):
        require_columns(run / path / name, run)


STRIDES = dict.fromkeys(["steps", "steps, judge", "dataset", "judge", "gold", "hints", "waves"], 7)
STRIDES |= dict.fromkeys(["steps, process", "rewards", "curriculum"], 71)


@pytest.mark.faults
@pytest.mark.parametrize("source", STRIDES)
def test_no_record_of_another_source_breaks_a_command(shelf: Shelf, source: str, tmp_path: Path, space: Path) -> None:
    run = space / "run"
    shutil.copytree(shelf.calm(source).run, run)
    sweep(run, tmp_path, slice(None, None, STRIDES[source]), source)
