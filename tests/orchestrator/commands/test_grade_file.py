"""`ratchet grade`, as a user types it, with real grader processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.grade.file import COLUMNS
from tests.orchestrator.test_cli import ratchet

ROWS = [
    {"id": 1, "gold": "7", "text": "So.\nFinal answer: 7 apples"},
    {"id": 2, "gold": 7, "text": "It is \\boxed{8}."},
    {"id": 3, "gold": "7", "text": "There are 7."},
    {"id": 4, "gold": "7", "text": "Final answer: 7", "finish_reason": "length", "more": [1, "x"]},
]
WANTED = [
    {"verdict": "correct", "extracted": "7 apples", "rule": "final_answer", "reason": None, "cause": None},
    {"verdict": "wrong", "extracted": "8", "rule": "boxed", "reason": "number: '8' is not '7'", "cause": None},
    {"verdict": "wrong", "extracted": None, "rule": None, "reason": "no answer found", "cause": None},
    {"verdict": "ungradable", "extracted": None, "rule": None, "reason": "truncated", "cause": "truncated"},
]


def written(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_verdicts_stand_beside_the_rows_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "out.jsonl"
    assert ratchet("grade", written(tmp_path / "in.jsonl"), "-o", output, "--processes", "1") == 0
    assert read(output) == [row | verdict for row, verdict in zip(ROWS, WANTED, strict=True)]
    printed = capsys.readouterr().out
    assert "4 rows in" in printed and "25.0 % correct" in printed
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]


def test_the_summary_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-o", tmp_path / "out.jsonl", "--json", "--lenient", "--grader", "number", "--processes", "1")
    assert ratchet("grade", written(tmp_path / "in.jsonl"), *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["correct"], told["wrong"], told["ungradable"]) == (4, 2, 1, 1)
    assert told["rules"] == {"final_answer": 1, "boxed": 1, "last_number": 1, "none": 1}


def test_the_marks_of_thoughts_are_an_option(tmp_path: Path) -> None:
    texts = ("Final answer: 8</think>Final answer: 7", "Final answer: 8 DONE Final answer: 7", "Final answer: 7<mind>6")
    source = written(tmp_path / "in.jsonl", [{"gold": "7", "text": text} for text in texts])
    output = tmp_path / "out.jsonl"
    for arguments, extracted in (
        ([], ["7", "7", "7<mind>6"]),
        (["--thoughts", "DONE", "--thoughts", "</mind>"], ["7", "7", "7"]),
        (["--thoughts", ""], ["7", "7", "7<mind>6"]),
    ):
        assert ratchet("grade", source, "-o", output, "--grader", "exact", "--processes", "1", *arguments) == 0
        assert [row["extracted"] for row in read(output)] == extracted


def test_parquet_keeps_its_types_and_jsonl_becomes_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.parquet"
    ids, counts = pa.array([1, 2], pa.int8()), pa.array([[1], []], pa.list_(pa.int32()))
    table = pa.table({"id": ids, "gold": ["7", "x"], "text": ["\\boxed{7}", "\\boxed{y}"], "n": counts})
    pq.write_table(table, source)
    assert ratchet("grade", source, "-o", tmp_path / "out.parquet", "--grader", "exact", "--processes", "1") == 0
    graded = pq.read_table(tmp_path / "out.parquet")
    assert graded.select(table.column_names).equals(table)
    assert graded["verdict"].to_pylist() == ["correct", "wrong"]
    # What is graded again is graded anew, with nothing there twice.
    assert ratchet("grade", tmp_path / "out.parquet", "-o", tmp_path / "out.jsonl", "--processes", "1") == 0
    assert list(read(tmp_path / "out.jsonl")[0]) == [*table.column_names, *COLUMNS]
    assert ratchet("grade", written(tmp_path / "in.jsonl"), "-o", tmp_path / "b.parquet", "--processes", "1") == 2
    plain = [{**row, "gold": str(row["gold"]), "text": row["text"] + "\ud800"} for row in ROWS]
    to = ("-o", tmp_path / "b.parquet", "--processes", "1")
    assert ratchet("grade", written(tmp_path / "in.jsonl", plain), *to) == 2
    large = [{"gold": "7", "text": "#### 7", "new": 10**30}]
    assert ratchet("grade", written(tmp_path / "in.jsonl", large), *to) == 2
    assert "do not fit into Parquet" in capsys.readouterr().err
    plain = [{"gold": "7\\text{\x00}", "text": "Final answer: é \u202e7"}, {"gold": "7", "text": "#### 7", "new": 1}]
    assert ratchet("grade", written(tmp_path / "in.jsonl", plain), *to) == 0
    assert pq.read_table(tmp_path / "b.parquet")["new"].to_pylist() == [None, 1]


def test_other_fields_rules_and_graders(tmp_path: Path) -> None:
    rows = [{"solution": "2+5\n#### 7", "answer": "(b) Paris", "said": "B"}]
    source, output = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    common = ("-o", output, "--text", "said", "--answer", "whole", "--processes", "1")
    assert ratchet("grade", source, *common, "--gold", "answer", "--grader", "choice") == 0
    assert read(output)[0]["verdict"] == "correct"
    assert ratchet("grade", source, *common, "--gold", "solution", "--gold-marker", "####", "--grader", "number") == 0
    assert read(output)[0]["reason"] == "number: 'B' is not read as a number"
    combined = "{all_of: [choice, 'regex:^(.)']}"
    assert ratchet("grade", source, *common, "--gold", "answer", "--grader", combined) == 0
    assert read(output)[0]["reason"] == "regex: 'B' is not '('"


@pytest.mark.parametrize(
    ("line", "arguments", "message"),
    [
        ("{}", [], "in.jsonl, line 2: no field 'gold'"),
        ('{"gold": null, "text": ""}', [], "in.jsonl, line 2: field 'gold' must be text or a number, not null: leave"),
        ('{"gold": true, "text": ""}', [], "must be text or a number, not true: write it in quotes, in the words that"),
        ('{"gold": ["7", false], "text": ""}', [], "entry 2, must be text or a number, not false: write it in quotes"),
        ('{"gold": "7", "text": null}', [], "field 'text' must be text or a number, not null: leave such rows out"),
        ("", ["--grader", "{all_of: 2020-13-45}"], "--grader '{all_of: 2020-13-45}': no YAML; write such as"),
        ("", ["--grader", "{" * 5000], "no YAML; write such as '{all_of: [number, exact]}'"),
        ("", ["--thoughts", "</think>", "--thoughts", ""], "--thoughts '' turns the marks off: give it alone, or"),
        ('{"gold": "7", "text": [7]}', [], "in.jsonl, line 2: field 'text' must be text or a number, not list"),
        ('{"gold": NaN, "text": ""}', [], "in.jsonl, line 2: field 'gold' is nan"),
        ("[7]", [], "in.jsonl, line 2: an object is needed"),
        ("{", [], "in.jsonl, line 2: not JSON"),
        ('{"gold": "7", "text": "7"}', ["--gold-marker", "####"], "in.jsonl, line 1: field 'gold' has no '####'"),
        ("", ["--grader", "nice"], "--grader: 'nice' is no grader; use `exact`"),
        ("", ["--grader", "python:nothing"], "--grader: 'python:nothing' must be `python:MODULE:FUNCTION`"),
        ("", ["--grader", "python:no_such_module:f"], "python:no_such_module:f: ModuleNotFoundError"),
        ("", ["--grader", "regex:(a)(b)"], "--grader: 'regex:(a)(b)' has 2 groups"),
        ("", ["--grader", "{some: [exact]}"], "must be {all_of: [...]} or {any_of: [...]}"),
        ("", ["--answer", "nowhere"], "--answer: 'nowhere' must be `final_answer`"),
        ("", ["--grader", "{any_of: exact}"], "'exact'} is no grader; write a name, or such as {all_of:"),
        ("", ["--timeout", "0"], "--timeout: must be a number above 0 and at most 86400 (it is 0.0)"),
        ("", ["--timeout", "1e30"], "--timeout: must be a number above 0 and at most 86400 (it is 1e+30)"),
        ("", ["--processes", "0"], "--processes: must be a whole number from 1 to 4096, or null (it is 0)"),
        ("", ["--processes", "100000000000000000000"], "--processes: must be a whole number from 1 to 4096, or null"),
        ("", ["--gold-marker", ""], "--gold-marker is empty: give the text"),
        ("", ["--judge-model", "m"], "--judge-model and --judge-url are for --grader judge"),
        ("", ["--judge-url", "http://x/v1"], "--judge-model and --judge-url are for --grader judge"),
        ("", ["--grader", "judge", "--judge-url", "http://x/v1"], "--grader judge needs --judge-model"),
        ("", ["--grader", "judge", "--judge-model", "m", "--judge-url", "x"], "--judge-url: `base_url` is no address"),
        (
            "",
            ["--grader", "judge", "--judge-model", "m", "--judge-url", "http://me:secret@x/v1"],
            "--judge-url: `base_url` must hold no name or password",
        ),
        ("", ["-o", "folder.jsonl"], "-o folder.jsonl: cannot be written (Is a directory)"),
        ("", ["-o", "in.jsonl/out.jsonl"], "-o in.jsonl/out.jsonl: cannot be written ("),
        ("", ["-o", f"{'x' * 300}.jsonl"], ".jsonl: cannot be written (File name too long)"),
        ("", ["-o", "out.csv"], "-o out.csv: the name must end in .jsonl or .parquet"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_no_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "in.jsonl"
    source.write_text('{"gold": "7", "text": "\\\\boxed{7}"}\n' + line + "\n")
    (tmp_path / "folder.jsonl").mkdir()
    assert ratchet("grade", source, "-o", tmp_path / "out.jsonl", "--processes", "1", *arguments) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and "secret" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.jsonl", "in.jsonl"]


@pytest.mark.parametrize("spelled", ["in.jsonl", "folder/../in.jsonl", "link.jsonl", "other-name.jsonl"])
def test_the_file_that_is_graded_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spelled: str
) -> None:
    source = written(tmp_path / "in.jsonl")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "other-name.jsonl").hardlink_to(source)
    before, names = source.read_bytes(), sorted(tmp_path.rglob("*"))
    assert ratchet("grade", source, "-o", tmp_path / spelled, "--processes", "1") == 2
    told = capsys.readouterr().err
    assert "the file that is graded. Give the verdicts another name" in told and told.count("\n") == 1
    assert source.read_bytes() == before and sorted(tmp_path.rglob("*")) == names


@pytest.mark.parametrize("place", ["run/rounds/01/verdicts.jsonl", "run/new/out.jsonl", "link/out.jsonl"])
def test_no_verdicts_are_written_among_the_files_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "run/ledger").mkdir(parents=True)
    (tmp_path / "run/ledger/00000000.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "run/ledger")
    before = sorted(tmp_path.rglob("*"))
    source = written(tmp_path / "in.jsonl")
    assert ratchet("grade", source, "-o", tmp_path / place, "--processes", "1") == 2
    told = capsys.readouterr().err
    assert f"lies in the run {tmp_path / 'run'}, among files that it counts" in told and told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == sorted([*before, source])
