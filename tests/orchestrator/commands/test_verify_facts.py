"""`ratchet verify` computes facts again: each fact of a finished run is changed in turn, and must be a finding, or is
one of those that no file tells of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.commands.verify.differences import differences
from orchestrator.commands.verify.recount import LEFT, Recount
from orchestrator.commands.verify.recount import SHARDS as COUNTED
from orchestrator.config import Job
from orchestrator.files.durable import canonical, fingerprint, sha256
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.recipes import RECIPE
from orchestrator.ledger.run import Run
from orchestrator.records.shards import SHARDS
from orchestrator.reports.report import report_text
from orchestrator.reports.status import status
from orchestrator.rounds.run_files import RunFiles
from orchestrator.sources.registry import SOURCES
from tests.faults.children import Case
from tests.faults.jobs import KINDS

LEFT_HERE = frozenset({"probe.tokens", "probe.completions"})
"""Of a checkpoint that was not chosen nothing is left that could be counted."""


def records(run: Path) -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_bytes()) for path in sorted((run / "ledger").glob("*.json"))}


def seal(path: Path, document: dict[str, Any]) -> None:
    """Write a record with the `check` that belongs to it, as somebody would who changes it on purpose."""
    document = {key: value for key, value in document.items() if key != "check"}
    path.write_bytes(canonical(document | {"check": fingerprint(document)}) + b"\n")


def leaves(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON value that is no object or list."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(below, (*above, key))
    else:
        yield above


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value < 1 or isinstance(value, int) else value * 0.99
    return 0.5 if value is None else f"{value}x"


def dotted(place: tuple[Any, ...]) -> str:
    return ".".join(name for name in map(str, place) if not name.isdigit())


def is_left(step: str, place: tuple[Any, ...]) -> bool:
    name = dotted(place)
    return bool(LEFT & {name, *map(str, place)}) or ("/selection/" in step and name in LEFT_HERE)


def changes(run: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Every record with one fact changed, and what was changed."""
    for path, document in records(run).items():
        data = document["data"]
        facts = data.get("facts") if document["kind"] in ("commit", "shard") else None
        facts = data if document["kind"] == "promotion" else facts
        for place in leaves(facts or {}):
            if document["kind"] != "promotion" and is_left(data["step"], place):
                continue
            changed = json.loads(json.dumps(document))
            inner = changed["data"] if document["kind"] == "promotion" else changed["data"]["facts"]
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = other(inner[place[-1]])
            yield path, changed, f"{path.name}: {data.get('step', 'promotion')}: {'.'.join(map(str, place))}"


def missed(run: Path, stride: int) -> tuple[list[str], int]:
    """Of every so manieth change those that `verify` does not find in the record, and how many were tried."""
    found, tried = [], 0
    for number, (path, changed, what) in enumerate(changes(run)):
        if number % stride:
            continue
        before, tried = path.read_bytes(), tried + 1
        seal(path, changed)
        if not any(f"ledger/{path.name}" in line for line in verify(run).findings):
            found.append(what)
        path.write_bytes(before)
    return found, tried


def finished(folder: Path, source: str) -> Path:
    """A run of the smallest job of a source, with gate problems enough for a difference to be seen."""
    kind = KINDS[source]
    job = kind.make(folder)
    case = Case(job, folder / "case", kind.workers)
    case.folder.mkdir()
    kind.workers(case).drive()
    return case.run


def passed_over(run: Path) -> list[str]:
    """The facts of commits and shards that may say anything else beside the files, but for those that are left."""
    state, found = Ledger(run / "ledger").state, []
    recount = Recount(RunFiles(run, state, ()), Job.model_validate(state.configs[-1]["job"]), SOURCES)
    every = [(step, commit.facts, recount.commit(step)) for step, commit in state.commits.items()]
    for step, shards in state.shards.items():
        every += [(step, shard.facts, recount.shard(step, index)) for index, shard in shards.items()]
    for step, facts, computed in every:
        assert computed is not None and not list(differences(facts, computed)), step
        for place in leaves(facts):
            changed = inner = json.loads(json.dumps(facts))
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = other(inner[place[-1]])
            if not is_left(step, place) and not list(differences(changed, computed)):
                found.append(f"{step}: {'.'.join(map(str, place))}")
    return found


@pytest.mark.parametrize("source", KINDS)
def test_every_fact_is_computed_again_or_left(tmp_path: Path, source: str) -> None:
    """A new fact must be sorted into one of the two."""
    run = finished(tmp_path, source)
    assert passed_over(run) == [] and verify(run).findings == []


@pytest.mark.parametrize(
    ("source", "stride"),
    [pytest.param("sample", 61, id="sample-sample")]
    + [pytest.param(source, 1, marks=pytest.mark.faults, id=f"{source}-every-fact") for source in KINDS],
)
def test_a_fact_that_is_changed_is_found(tmp_path: Path, source: str, stride: int) -> None:
    run = finished(tmp_path, source)
    assert verify(run).findings == []
    found, tried = missed(run, stride)
    assert found == [] and tried


def test_every_fact_that_is_left_is_told_by_some_run(tmp_path: Path) -> None:
    """No name stands among those that are not computed again without need."""
    told = set()
    for source in ("steps, judge", "dataset", "rewards"):
        (tmp_path / source).mkdir()
        for document in records(finished(tmp_path / source, source)).values():
            facts = document["data"].get("facts", {})
            told |= {name for place in leaves(facts) for name in (dotted(place), *map(str, place))}
    real_alone = {"engines_lost", "graders_lost", "restarts", "resumed_from", "first_step", "judge_prompt", "revisions"}
    real_alone |= {"id", "starting", "merge_kept", "rewarders_lost"}
    assert LEFT - told <= real_alone, "facts of the real stack, and of models and data of the Hub"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("sample"), "sample")


@pytest.fixture
def run(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "run"))


def change(run: Path, kind: str, step: str | None, what: Any) -> str:
    """Change the first such record by `what`, which gets all of it; the record's name."""
    path, document = next(
        (path, document)
        for path, document in records(run).items()
        if document["kind"] == kind and document["data"].get("step") == step
    )
    what(document)
    seal(path, document)
    return f"ledger/{path.name}"


def test_a_parquet_bomb_is_named_and_not_read(run: Path) -> None:
    """Three million rows of the same value are a few kilobytes."""
    file = run / "rounds/01/train/metrics.parquet"
    names = pq.read_schema(file).names
    pq.write_table(pa.table({name: pa.repeat(pa.scalar(1.0), 3_000_000) for name in names}), file)
    assert file.stat().st_size < 300_000

    def fitting(document: dict[str, Any]) -> None:
        [said] = [a["files"] for a in document["data"]["artifacts"] if "metrics.parquet" in a["files"]]
        said["metrics.parquet"] = {"size": file.stat().st_size, "sha256": sha256(file)}

    change(run, "commit", "rounds/01/train", fitting)
    found = verify(run).findings
    assert any("rounds/01/train/metrics.parquet" in line and "3,000,000 rows" in line for line in found)
    for read in (partial(report_text, sources=SOURCES), status):
        read(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reason", pa.scalar("a" * (1 << 20))),
        pytest.param(
            "opinions",
            pa.scalar([("a" * (1 << 20), "correct")], pa.map_(pa.string(), pa.string())),
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_text_that_fills_a_column_from_a_dictionary_is_named_and_not_read(
    run: Path, name: str, value: pa.Scalar
) -> None:
    """Two thousand times a megabyte are two kilobytes of Parquet."""
    file = run / "rounds/01/verdicts/00000.parquet"
    first = pq.read_table(file).slice(0, 1)
    rows = pa.concat_tables([first] * 2000)
    texts = pa.repeat(value, 2000) if name == "opinions" else _from_a_dictionary(value, 2000)
    table = rows.set_column(rows.schema.get_field_index(name), name, texts)
    options: dict[str, Any] = {"store_schema": False, "write_statistics": False, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(table, file, compression="zstd", **options)
    assert file.stat().st_size < 100_000

    def fitting(document: dict[str, Any]) -> None:
        document["data"]["artifact"]["files"][""] = {"size": file.stat().st_size, "sha256": sha256(file)}

    change(run, "shard", "rounds/01/verdicts", fitting)
    assert any("00000.parquet" in line and "that unpack to 2,09" in line for line in verify(run).findings)
    assert report_text(run, SOURCES) and status(run)


def _from_a_dictionary(value: pa.Scalar, number: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * number, pa.int8()), pa.array([value.as_py()]))


REQUIRED = frozenset({"seconds", "graders_version", "fingerprint", "recipe"})
"""Facts that no file tells, and every writer of now."""


def removals(run: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Every record without one of its facts."""
    for path, document in records(run).items():
        data, kind = document["data"], document["kind"]
        facts = data.get("facts") if kind in ("commit", "shard") else data if kind == "promotion" else None
        for place in keys(facts or {}):
            changed = inner = json.loads(json.dumps(document))
            inner = changed["data"] if kind == "promotion" else changed["data"]["facts"]
            for key in place[:-1]:
                inner = inner[key]
            left = kind != "promotion" and is_left(data["step"], place) and not (REQUIRED & {*place})
            left |= place == ("prompts_paired",) and "rectified" in data["facts"]  # earlier records of this recipe
            if not left and inner[place[-1]] not in ([], None):  # a list that is not there is an empty one
                del inner[place[-1]]
                yield path, changed, f"{path.name}: {data.get('step', 'promotion')}: {'.'.join(map(str, place))}"


def keys(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, below in value.items() if isinstance(value, dict) and above[-1:] != ("rules",) else ():
        yield (*above, key)
        yield from keys(below, (*above, key))


@pytest.mark.parametrize(
    ("source", "stride"),
    [pytest.param("sample", 61, id="sample-sample")]
    + [pytest.param(source, 1, marks=pytest.mark.faults, id=f"{source}-every-fact") for source in KINDS],
)
def test_a_fact_that_is_missing_is_found(tmp_path: Path, source: str, stride: int) -> None:
    run, quiet, tried = finished(tmp_path, source), [], 0
    for path, changed, what in [*removals(run)][::stride]:
        before, tried = path.read_bytes(), tried + 1
        seal(path, changed)
        if not verify(run).findings:
            quiet.append(what)
        path.write_bytes(before)
    assert quiet == [] and tried


@pytest.mark.parametrize("told", ["nothing", "null"])
def test_a_checkpoint_that_might_have_been_chosen_has_a_probe(run: Path, told: str) -> None:
    def less(document: dict[str, Any]) -> None:
        document["data"]["facts"] |= {"probe": None}
        if told == "nothing":
            del document["data"]["facts"]["probe"]

    step = "rounds/01/selection/000001"
    assert f"{change(run, 'commit', step, less)}: {step}: probe is not told" in verify(run).findings


def test_a_shard_that_passes_for_an_earlier_versions_is_named(run: Path) -> None:
    """Such a one need not tell all, and a step is by the recipe of its oldest shard."""
    name = change(run, "shard", "rounds/01/verdicts", lambda document: document["data"]["facts"].pop("recipe"))
    assert any(f"rounds/01/verdicts by recipe {RECIPE}, and its shard" in line for line in verify(run).findings), name


def test_an_accuracy_of_99_per_cent_is_named_with_what_the_files_say(run: Path) -> None:
    def better(document: dict[str, Any]) -> None:
        document["data"]["facts"]["test"]["accuracy"] = 0.99

    name = change(run, "commit", "rounds/02/evaluation", better)
    [line] = verify(run).findings
    assert line == f"{name}: rounds/02/evaluation: test.accuracy is 0.99, and the files say 0.3333333333333333"


def test_an_unknown_kind_and_an_unknown_step_are_named(run: Path) -> None:
    name = change(run, "end", None, lambda document: document.update(kind="wish"))
    assert any(line.startswith(f"{name}: ") and "its kind is 'wish'" in line for line in verify(run).findings)
    name = change(run, "commit", "rounds/02/replay", lambda d: d["data"].update(step="rounds/02/replays"))
    assert f"{name}: rounds/02/replays: is no step of a run" in verify(run).findings


def test_shards_of_an_unknown_kind_are_named(run: Path) -> None:
    name = change(run, "shard", "rounds/01/verdicts", lambda d: d["data"].update(step="rounds/01/notes"))
    assert f"{name}: rounds/01/notes, shard 0: is no kind of shard that a run has" in verify(run).findings


def test_every_kind_of_shard_is_declared_and_computed_again(tmp_path: Path) -> None:
    own = {kind for source in SOURCES.values() for kind in source.recounted.shards}
    assert own | COUNTED.keys() == SHARDS.keys()
    with pytest.raises(ValueError, match="rounds/01/notes: shards of the kind `notes` are not declared in"):
        Run(tmp_path / "new").sharded("rounds/01/notes", {})


def test_a_rule_that_no_gate_has_is_named(run: Path) -> None:
    name = change(run, "promotion", None, lambda document: document["data"].update(rule="sometimes"))
    assert any(line.startswith(f"{name}: ") and "`data.rule` is 'sometimes'" in line for line in verify(run).findings)


def test_a_bad_shard_hides_nothing_of_the_others(run: Path) -> None:
    def more(document: dict[str, Any]) -> None:
        document["data"]["facts"]["tokens"] += 1

    name = change(run, "shard", "rounds/01/samples", more)
    (run / "rounds/01/samples/00001.parquet").write_bytes(b"no such bytes")
    found = verify(run).findings
    assert any(line.startswith(f"{name}: rounds/01/samples, shard 0: tokens is ") for line in found), found


def test_epochs_rise_one_by_one_and_each_begins_with_a_claim(run: Path) -> None:
    def later(document: dict[str, Any]) -> None:
        document["epoch"] = 2

    name = change(run, "commit", "rounds/02/train", later)
    assert verify(run).findings[0] == f"{name}: of epoch 2, which no claim has begun"


def test_what_no_driver_commits_twice_is_named(run: Path) -> None:
    [path] = [p for p, d in records(run).items() if d["data"].get("step") == "rounds/02/replay"]
    last = max(records(run))
    document = json.loads(last.read_bytes())
    end = run / "ledger" / f"{document['number'] + 1:08d}.json"
    seal(end, document | {"number": document["number"] + 1})
    seal(last, json.loads(path.read_bytes()) | {"number": document["number"]})
    assert verify(run).findings == [f"ledger/{last.name}: commits rounds/02/replay again"]


def test_a_shard_with_another_fingerprint_than_its_step_is_named(run: Path) -> None:
    def foreign(document: dict[str, Any]) -> None:
        document["data"]["facts"]["fingerprint"] = "0" * 32

    change(run, "shard", "rounds/01/samples", foreign)
    found = verify(run).findings
    assert any("with another fingerprint than" in line for line in found)


def test_an_end_that_cannot_be_is_named(run: Path) -> None:
    name = change(run, "end", None, lambda document: document["data"].update(state="triumphant"))
    [found] = verify(run).findings
    assert found.startswith(f"{name}: this ledger record is damaged (`data.state` is 'triumphant' and should be ")


def test_current_may_be_behind_only_where_its_driver_died(run: Path) -> None:
    (run / "CURRENT").write_text("rounds/01/checkpoint\n")
    assert verify(run).findings == [], "a driver that dies may leave it behind"
    (run / "CURRENT").write_text("/somewhere/else\n")
    assert verify(run).findings == ["CURRENT: names /somewhere/else, and the last promotion rounds/02/checkpoint"]


@pytest.mark.parametrize("value", [None, "x", 7, -1, [], {}, [[]], {"x": {}}, 1e999, "\x1b]52;c;AAAA\x07"])
def test_whatever_stands_in_a_record_verify_does_not_break(run: Path, value: Any) -> None:
    """Each value of one record of each kind and step in turn, by another type: findings, and no traceback."""
    kept = {path: path.read_bytes() for path in records(run)}
    for path, document in list(records(run).items()):
        for key in document["data"]:
            changed = document | {"data": document["data"] | {key: value}}
            if value != 1e999:
                seal(path, changed)
            else:
                path.write_text(json.dumps(changed))
    assert verify(run).findings
    for path, content in kept.items():
        path.write_bytes(content)
    assert verify(run).findings == []


def test_a_path_that_leads_out_by_a_link_is_named(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (run / "rounds/01/pairs").rename(outside)
    (run / "rounds/01/pairs").symlink_to(outside)
    (run / "rounds/02").rename(tmp_path / "second")
    (run / "rounds/02").symlink_to(tmp_path / "second")
    found = verify(run).findings
    assert any(line.startswith("commit of rounds/02/pairs: ") and "leads out of the run" in line for line in found)
    assert any(line.startswith("rounds/01/pairs/00000.parquet: ") and "leads out" in line for line in found)


@pytest.mark.parametrize("name", ["rounds/01/pairs/00000.parquet", "CURRENT"])
def test_a_pipe_in_a_files_place_is_named_and_not_waited_for(run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    assert any(line.startswith(name) for line in verify(run).findings)


def test_odd_numbers_in_the_ledger_are_strays_or_a_gap(run: Path) -> None:
    (run / "ledger/1².json").write_text("{}")
    (run / "ledger/9999999999.json").write_text("{}")
    assert verify(run).findings == [] and verify(run).strays == 2
    (run / "ledger/99999999.json").write_text("{}")
    found = verify(run).findings
    assert len(found) == 2 and "to 99999998.json: missing" in found[0]
