"""Ledger folders and other small files of a run that are no such files, or hold what no driver writes: one message, at
once, and nothing is waited for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.driver.resume import load
from orchestrator.errors import BadInput, Damaged
from orchestrator.files.durable import canonical, fingerprint
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import record_numbers
from orchestrator.ledger.run import Run
from orchestrator.reports import tracked as cursor
from orchestrator.reports.progress.model import read_progress
from orchestrator.reports.report import report_text
from orchestrator.reports.status import run_state, status
from orchestrator.sources.registry import SOURCES
from tests.support.sample_run import DEAD_PID, SampleRun, two_rounds


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = two_rounds(tmp_path_factory.mktemp("strange") / "sample").root
    (run / "job.yaml").write_text("name: sample\n")
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "sample")
    return tmp_path / "sample"


def last(run: Path) -> Path:
    return max((run / "ledger").glob("*.json"))


def after(path: Path) -> Path:
    return path.with_name(f"{int(path.stem) + 1:08d}.json")


def sealed(path: Path, **changes: object) -> bytes:
    document = json.loads(path.read_bytes()) | changes
    del document["check"]
    return canonical(document | {"check": fingerprint(document)})


ODD_NAMES = ["9999999999.json", "1².json", "١٢٣٤٥٦٧٨.json", "0000001.json", "00000001.json~", "-0000001.json", ".json"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_what_has_no_records_name_is_a_stray(run: Path, name: str) -> None:
    before, sound = status(run), verify(run)
    os.mkfifo(run / "ledger" / name)
    assert status(run) == before
    report = verify(run)
    assert report.findings == sound.findings and report.strays == sound.strays + 1


def test_a_record_far_away_means_a_hole(run: Path) -> None:
    missing = after(last(run))
    (run / "ledger/99999999.json").write_bytes(last(run).read_bytes())
    with pytest.raises(Damaged, match=rf"{missing.name}: this ledger record is missing, while 99999999\.json exists"):
        status(run)
    assert any(f"ledger/{missing.name} to 99999998.json: missing" in finding for finding in verify(run).findings)
    assert record_numbers(run / "ledger")[-1] == 99999999


def deep(path: Path) -> None:
    path.write_bytes(b'{"schema":1,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def rather_deep(path: Path) -> None:
    value: object = 1
    for _ in range(100):
        value = [value]
    path.write_bytes(sealed(path.parent / "00000000.json", number=int(path.stem), data={"x": value}))


def long_number(path: Path) -> None:
    path.write_bytes(sealed(path.parent / "00000000.json", number=int(path.stem), data={"x": 10**200}))


def twice(path: Path) -> None:
    content = sealed(path.parent / "00000000.json", number=int(path.stem))
    path.write_bytes(content.replace(b'"epoch":1', b'"epoch":7,"epoch":1'))


def unknown_kind(path: Path) -> None:
    path.write_bytes(sealed(path.parent / "00000000.json", number=int(path.stem), kind="approval"))


def link_out(path: Path) -> None:
    outside = path.parent.parent.parent / "outside.json"
    outside.write_bytes(sealed(path.parent / "00000000.json", number=int(path.stem)))
    path.symlink_to(outside)


def no_check(path: Path, value: str) -> None:
    document = json.loads((path.parent / "00000000.json").read_bytes()) | {"number": int(path.stem)}
    del document["check"]
    path.write_text(json.dumps(document)[:-1] + f', "more": {value}}}')


RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "leads out of the run"),
    "a folder": (Path.mkdir, "no regular file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    "a link out of the run": (link_out, "leads out of the run"),
    "a huge file": (lambda path: os.truncate(path, 1 << 40) if path.touch() is None else None, "larger than"),
    "deep JSON": (deep, "nested more than 64 deep"),
    "rather deep JSON": (rather_deep, "nested more than 64 deep"),
    "a long number": (long_number, "more than 100 digits"),
    "a number of 10,000 digits": (lambda path: no_check(path, "1" * 10_000), "damaged"),
    "NaN": (lambda path: no_check(path, "NaN"), "NaN is no number"),
    "1e999": (lambda path: no_check(path, "1e999"), "damaged"),
    "half a surrogate pair": (lambda path: no_check(path, r'"\ud800"'), "damaged"),
    "no UTF-8": (lambda path: path.write_bytes(b'{"schema": "\xff"}'), "damaged"),
    "UTF-16": (lambda path: path.write_bytes('{"schema": 1}'.encode("utf-16")), "damaged"),
    "a key twice": (twice, "the key 'epoch' stands twice"),
    "a kind of its own": (unknown_kind, "'approval', which this version does not know"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_what_stands_in_a_records_place_is_named(run: Path, what: str) -> None:
    make, message = RECORDS[what]
    path = after(last(run))
    make(path)
    for read in (status, partial(report_text, sources=SOURCES)):
        with pytest.raises(Damaged, match=message) as refused:
            read(run)
        assert str(path) in str(refused.value) and len(str(refused.value)) < 1000
    assert [line for line in verify(run).findings if line.startswith(f"ledger/{path.name}: ")]


def test_a_ledger_that_is_elsewhere_is_not_written_to(run: Path, tmp_path: Path) -> None:
    os.rename(run / "ledger", tmp_path / "elsewhere")
    (run / "ledger").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match="leads out of the run"):
        Ledger(run / "ledger")


SIGNS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link out of the run": lambda path: path.symlink_to("/proc/self/stat"),
    "a huge file": lambda path: os.truncate(path, 1 << 40) if path.touch() is None else None,
    "deep JSON": lambda path: path.write_bytes(b"[" * 10_000),
    "a list": lambda path: path.write_bytes(b"[1]"),
    **{
        f"{key}: {value[:20]}": lambda path, key=key, value=value: path.write_text(  # type: ignore[misc]
            json.dumps({"host": "elsewhere", "pid": 1, "process_start": 1.0})[:-1] + f', "{key}": {value}}}'
        )
        for key in ("host", "pid", "process_start", "run", "records")
        for value in ("[]", "{}", "true", "-1", "1e999", "NaN", "9" * 400, r'"\u0000"', "0")
    },
}


@pytest.mark.parametrize("file", ["driver.json", "tracking.json", "progress.json", "ledger.cache"])
@pytest.mark.parametrize("what", SIGNS)
def test_a_sign_of_life_that_is_none_is_passed_over(run: Path, what: str, file: str) -> None:
    last(run).unlink()  # how it ended is not said: the sign of life is looked at
    SIGNS[what](run / file)
    assert run_state(run, Ledger(run / "ledger").state) in ("interrupted", "running")
    if file == "tracking.json":
        assert cursor.read(run, 1) is None
    if file == "progress.json":
        assert read_progress(run, Ledger(run / "ledger").state) is None


def test_the_copy_of_its_job_in_a_run_is_a_file(run: Path) -> None:
    (run / "job.yaml").unlink()
    os.mkfifo(run / "job.yaml")
    with pytest.raises((Damaged, BadInput), match=r"job\.yaml: is no regular file"):
        load(run / "job.yaml")


REFUSED = [
    ("commit", {"facts": {"seconds": "1"}}, r"`data\.facts\.seconds` is '1' and should be a valid number"),
    ("commit", {"facts": {"tokens": -1}}, r"`data\.facts\.tokens` is -1"),
    ("commit", {"facts": {"seconds": float("nan")}}, "not JSON compliant"),
    ("commit", {"step": "ledger/x"}, r"`data\.step` is 'ledger/x'"),
    ("commit", {"step": "rounds/../x"}, r"`data\.step`"),
    ("commit", {"step": "rounds/99999999/x"}, "a round below"),
    ("commit", {"discarded": ["a\\b"]}, r"`data\.discarded\.0`"),
    ("discard", {"paths": ["rounds/.hidden"]}, r"`data\.paths\.0` is 'rounds/\.hidden'"),
    ("discard", {"paths": [""]}, r"`data\.paths\.0` is ''"),
    ("discard", {"paths": ["a\0b"]}, r"`data\.paths\.0`"),
    ("rollback", {"round": -1, "before": "x", "rounds": []}, r"`data\.round` is -1"),
    ("rollback", {"round": 1, "before": "x", "rounds": [3, 2]}, "sets rounds aside, in order"),
    ("rollback", {"round": 2, "before": "x", "rounds": [2]}, "which follow the one it names"),
    ("rollback", {"round": 1, "before": "x", "rounds": [10**9]}, r"`data\.rounds\.0`"),
    ("end", {"state": "gone"}, r"`data\.state` is 'gone'"),
    ("promotion", {"reference": "/etc"}, "neither in the run nor the base model"),
    ("promotion", {"best": "../x"}, "paths inside the run"),
]
COMMIT = {"step": "rounds/03/pairs", "fingerprint": "f" * 32, "artifacts": [], "facts": {}}
PROMOTION = {"round": 3, "promoted": True, "reference": "rounds/03/checkpoint", "reason": "", "rule": "always"}
WHOLE = {"commit": COMMIT, "promotion": PROMOTION | {"alpha": 0.05, "p_value": 1.0, "won": 0, "lost": 0}}


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED)
def test_what_reading_would_refuse_is_not_written(
    tmp_path: Path, kind: str, changes: dict[str, object], message: str
) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    before = sorted(os.listdir(run.root / "ledger"))
    with pytest.raises(Damaged, match=message):
        run.ledger.append(kind, WHOLE.get(kind, {}) | changes)  # type: ignore[arg-type]
    assert sorted(os.listdir(run.root / "ledger")) == before
    run.ledger.append("promotion", WHOLE["promotion"] | {"reference": run.job.model})  # the base model's own folder
    assert Ledger(run.root / "ledger").state.promotions[0]["reference"] == "/models/seed"
    assert run.ledger.state.driver["pid"] == DEAD_PID


def test_how_a_run_ended_is_said_whatever_the_error_says(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.claim({})
    run.end("failed", "no file " + os.fsdecode(b"\xff") + "x" * 100_000)
    reason = Ledger(run.root / "ledger").state.end["reason"]  # type: ignore[index]
    assert reason.startswith("no file ?x") and len(reason) == 10_000
