"""Paths as they are named: unknown users and null characters have one message, wherever they stand."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.errors import BadInput
from orchestrator.files.named import named_path
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.orchestrator.test_cli import PROJECT, ratchet
from tests.support.stand_ins import JOB, StandIns, make_project, run_job

NOBODY, NUL = "~nobody-of-that-name/x", "a\0b"


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A link to itself."""
    link = tmp_path_factory.mktemp("circle") / "link.yaml"
    link.symlink_to(link)
    return link


def test_a_home_folder_is_found_and_any_other_name_kept() -> None:
    assert named_path("~/x") == Path.home() / "x" and named_path("a/~b") == Path("a/~b")


@pytest.mark.parametrize(
    ("name", "said"), [(NOBODY, "home folder is not known"), (NUL, "null character"), ("\ud800", "surrogates")]
)
def test_a_name_of_nothing_is_refused_with_its_key(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"^run_dir: .*{said}"):
        named_path(name, "run_dir")


GUARDED = {
    "expanduser": {"orchestrator/files/named.py"},
    "resolve": {
        "orchestrator/config/places.py",  # of our own files
        "orchestrator/files/inside.py",
        "orchestrator/records/model_folder.py",
        "workers/grading/process.py",  # of our own files
        "workers/harness/process.py",  # likewise
    },
}
"""Who calls what raises RuntimeError, for an unknown user or for links that go round in a circle, and expects it."""


@pytest.mark.parametrize("method", GUARDED)
def test_nobody_else_looks_for_a_home_or_follows_links(method: str) -> None:
    files = [*PROJECT.glob("orchestrator/**/*.py"), *PROJECT.glob("workers/**/*.py")]
    users = {
        str(file.relative_to(PROJECT))
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == method
    }
    assert users == GUARDED[method]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    # Stand-ins record no number format, for which engines of a driver would ask a Ray of their own.
    run_job(make_project(folder, rounds=1, generate=JOB["generate"] | {"dtype": "own"}), StandIns())
    return folder / "run"


def at(*keys: str) -> Callable[[dict[str, Any], Any], None]:
    def put(job: dict[str, Any], value: Any) -> None:
        for key in keys[:-1]:
            job = job[key]
        job[keys[-1]] = value

    return put


PLACES = {
    "run_dir": at("run_dir"),
    "model": at("model"),
    "run": lambda job, value: job.update(model=f"run:{value}"),
    "reference": at("reference"),
    "data": at("data", "train", "path"),
    "tracking": at("tracking", "uri"),
}


@pytest.mark.parametrize("name", [NOBODY, NUL, "circle"], ids=["nobody", "nul", "circle"])
@pytest.mark.parametrize("place", PLACES)
def test_no_name_in_a_strangers_job_breaks_a_command(
    place: str, name: str, finished: Path, circle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(circle) if name == "circle" else name
    run = shutil.copytree(finished, tmp_path / "run")
    for path, document in records(run).items():
        if document["kind"] == "config":
            PLACES[place](document["data"]["job"], name)
            seal(path, document)
    (run / "job.yaml").unlink()
    commands = [["status", run], ["verify", run], ["gc", "--dry-run", run], ["fork", run, tmp_path / "forked"]]
    commands += [["resume", run], ["resume", run, "--trust"]]
    if place not in ("tracking", "run_dir"):  # of these it would be done, with Ray
        commands.append(["rescore", run, tmp_path / "new"])
    for command in commands:
        code = ratchet(*command)
        said = capsys.readouterr().err
        assert "Traceback" not in said and code in (0, 1, 2), (command, said)


def test_a_new_run_below_a_file_is_told(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for command in ("fork", "rescore"):
        assert ratchet(command, finished, tmp_path / "file/new") == 2
        assert f"{tmp_path}/file/new: a run needs a folder, and {tmp_path}/file is none" in capsys.readouterr().err


def test_links_in_a_circle_are_told_by_every_command(
    circle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, new = make_project(tmp_path), tmp_path / "new"
    commands: list[list[str | Path]] = [[word, circle] for word in ("validate", "run", "doctor", "compare", "resume")]
    commands += [[word, circle] for word in ("verify", "gc", "status")]
    commands += [["fork", circle, new], ["rescore", circle, new], ["grade", circle, "-o", tmp_path / "out.jsonl"]]
    commands += [["validate", job, f"{key}={circle}"] for key in ("run_dir", "model", "reference", "data.train.path")]
    commands += [["run", job, f"run_dir={circle}"]]
    for command in commands:
        code = ratchet(*command)
        said = capsys.readouterr().err
        assert code == 2 and "Traceback" not in said, (command, said)


@pytest.mark.parametrize("variable", ["RATCHET_HOME", "RATCHET_STATE_HOME"])
def test_no_name_in_the_environment_breaks_a_command(
    variable: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, NOBODY)
    job = yaml.safe_load((finished / "job.yaml").read_text())
    del job["run_dir"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for command in (["validate", tmp_path / "job.yaml"], ["verify", finished], ["fork", finished, tmp_path / "forked"]):
        ratchet(*command)
        assert "Traceback" not in capsys.readouterr().err, command


def test_no_name_in_a_comparison_breaks_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (NOBODY, NUL):
        file = tmp_path / "compare.yaml"
        file.write_text(yaml.safe_dump({"name": "c", "job": name, "arms": {"irpo": {}}}))
        assert ratchet("compare", file) == 2
        assert "Traceback" not in (said := capsys.readouterr().err) and "job: " in said


ODD = ("~", "~root", "file:", "run:x", "hdfs:", "-x", "%41")
"""Names that Arrow takes for a home or an address where a path begins with them."""


@pytest.mark.parametrize("name", ODD)
def test_a_run_is_where_its_name_says(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(finished, name)
    given, new = f"./{name}", f"./{name} new"
    for command in (["status", given], ["verify", given], ["gc", given], ["resume", given]):
        assert ratchet(*command) == 0, (command, capsys.readouterr())
    assert ratchet("fork", given, new, "name=new") == 0 and ratchet("verify", new) == 0, capsys.readouterr()
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name} new"}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_answers_are_where_their_name_says(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pa.Table.from_pylist([{"gold": "7", "text": "Final answer: 7"}])
    with open(f"{name}.parquet", "wb") as file:
        pq.write_table(rows, file)
    assert ratchet("grade", f"./{name}.parquet", "-o", f"./{name}2{kind}") == 0, capsys.readouterr()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.parquet", f"{name}2{kind}"}


def test_a_run_whose_name_is_no_text_is_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"\xff\xfe")
    run = shutil.copytree(finished, odd / "run")
    for command in (["status", run], ["verify", run], ["gc", run], ["resume", run], ["fork", finished, odd / "new"]):
        assert ratchet(*command) == 2
        said = capsys.readouterr().err
        assert "UTF-8" in said and "Traceback" not in said, said
