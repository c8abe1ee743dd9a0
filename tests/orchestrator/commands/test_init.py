"""`ratchet init`: from somebody's own data and model to a job that can be run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.init.command import make
from orchestrator.commands.init.fields import Fields, boxed_in, fields_of
from orchestrator.commands.init.job_text import Base, job_text
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from orchestrator.inputs.problems import check_disjoint, read_problems
from tests.orchestrator.test_cli import ratchet

PROJECT = Path(__file__).parents[3]
BASE = PROJECT / "jobs/demo/base"
COLOURS = ["red", "green", "blue", "white", "black", "brown", "grey", "pink", "violet", "yellow"]


def questions(number: int = 100) -> list[str]:
    return [f"{COLOURS[n % 10]} {n} plus {7 * n} {COLOURS[n // 10 % 10]}?" for n in range(number)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GSM8K = [{"question": q, "answer": f"It is 8 * {n}.\n#### {8 * n:,}"} for n, q in enumerate(questions())]
MATH = [{"problem": q, "solution": f"So \\boxed{{\\frac{{{n}}}{{7}}}}."} for n, q in enumerate(questions())]
QUIZ = [{"query": q, "options": ["yes", "no"], "label": n % 2, "uid": f"q{n}"} for n, q in enumerate(questions())]
PAIRS = [{"prompt": q, "chosen": "right", "rejected": "wrong"} for q in questions(30)]


@pytest.mark.parametrize(
    ("rows", "suffix", "gold", "grader"),
    [(GSM8K, ".jsonl", "8", "number"), (MATH, ".jsonl", "\\frac{1}{7}", "math"), (QUIZ, ".parquet", "B", "choice")],
    ids=["gsm8k", "math", "choice"],
)
def test_a_job_is_made_that_reads_the_problems(
    tmp_path: Path, rows: list[dict[str, Any]], suffix: str, gold: str, grader: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / f"mine{suffix}", rows)
    assert ratchet("init", tmp_path / "job", "--data", data, "--model", BASE) == 0
    assert f"go on     ratchet validate {tmp_path / 'job/job.yaml'}" in capsys.readouterr().out
    file = load_job(tmp_path / "job/job.yaml")
    files = {name: file.find(source.path, name) for name, source in file.job.data.sources.items()}
    read = {name: read_problems(file.job.data, name, files) for name in files}
    assert {name: len(problems) for name, problems in read.items()} == {"train": 60, "gate": 20, "test": 20}
    check_disjoint(read)
    ids = {problem.prompt_id: problem for problems in read.values() for problem in problems}
    second = ids["q1" if suffix == ".parquet" else "mine-1"]
    assert second.gold == gold and str(next(iter(rows[1].values()))) in second.text
    assert file.job.grade.graders == ["exact", grader] and file.job.train.precision == "fp32"
    assert os.access(tmp_path / "job/job.yaml", os.X_OK)
    assert len((tmp_path / "job/job.yaml").read_text().splitlines()) < 40
    assert json.loads((tmp_path / "job/ratchet.schema.json").read_text())["properties"]["train"]


def test_preference_data_are_used_where_they_are(tmp_path: Path) -> None:
    made = make(tmp_path / "job", write(tmp_path / "pairs.jsonl", PAIRS), str(BASE), None)
    file = load_job(made.job)
    assert file.job.source.type == "dataset" and file.job.rounds == 2
    assert file.job.stages is not None
    assert file.find(file.job.stages.sources[0].path, "stages") == tmp_path / "pairs.jsonl"


def test_nothing_that_is_trained_on_is_evaluated_on(tmp_path: Path) -> None:
    twice = [*GSM8K, *({**row, "question": row["question"].upper()} for row in GSM8K)]
    made = make(tmp_path / "job", write(tmp_path / "twice.jsonl", twice), str(BASE), "math")
    assert sum(made.sets.values()) < 200
    assert any("left out" in line for line in made.lines())
    file = load_job(made.job)
    files = {name: file.find(source.path, name) for name, source in file.job.data.sources.items()}
    check_disjoint({name: read_problems(file.job.data, name, files) for name in files})


@pytest.mark.parametrize(
    ("rows", "model", "more", "said"),
    [
        (GSM8K[:30], BASE, [], "30 rows are too few for three sets; 60 are the least"),
        ([{"x": 1}] * 70, BASE, [], "no field is known as the question (question, problem, "),
        ([{"question": "a"}] * 70, BASE, [], "no field is known as the answer"),
        (GSM8K, BASE, ["--task", "choice"], "no field is known as the options of a choice"),
        (GSM8K, BASE, ["--task", "preference"], "no field is known as the chosen and rejected"),
        (GSM8K, BASE, ["--task", "poems"], "--task: 'poems' is none. Give math, choice or preference."),
        (GSM8K, "./no/model", [], "--model: ./no/model: is no folder with a model in it"),
        ([], BASE, [], "has no rows"),
    ],
)
def test_mistakes_have_one_message_and_leave_nothing(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    model: str | Path,
    more: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path / "mine.jsonl", rows)
    assert ratchet("init", tmp_path / "job", "--data", data, "--model", model, *more) == 2
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["mine.jsonl"]


@pytest.mark.parametrize("name", ["😀 é", "a\x7fb\x85c", "_job", "x" * 150, '"\\#: [', "..x"])
def test_a_folder_of_any_name_holds_a_job_of_a_model_and_data_of_any_name(tmp_path: Path, name: str) -> None:
    """JSON's escapes would make two characters of an emoji, and a job's name is no folder's."""
    (place := tmp_path / name).mkdir()
    shutil.copytree(BASE, place / f"model {name}")
    data = write(place / f"{name}.jsonl", PAIRS)
    made = make(place / name, data, str(place / f"model {name}"), None)
    job = load_job(made.job)
    assert job.find(str(job.job.model), "model") == (place / f"model {name}").resolve()
    assert job.job.stages and job.find(job.job.stages.sources[0].path, "stages") == data.resolve()


def test_what_makes_no_job_leaves_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "mine.jsonl", GSM8K)
    with pytest.raises(BadInput, match="half of a surrogate pair"):
        make(tmp_path / "job", data, "ORG/\udcff", None)
    same = write(tmp_path / "same.jsonl", [GSM8K[0]] * 100)
    with pytest.raises(BadInput, match="nothing is left for gate and test"):
        make(tmp_path / "job", same, str(BASE), None)
    assert sorted(os.listdir(tmp_path)) == ["mine.jsonl", "same.jsonl"]


def test_half_a_surrogate_pair_is_kept_as_it_was_written(tmp_path: Path) -> None:
    rows = [row | {"note": "half \ud800"} for row in GSM8K]
    made = make(tmp_path / "job", write(tmp_path / "mine.jsonl", rows), str(BASE), None)
    kept = [json.loads(line) for line in (made.job.parent / "data/train.jsonl").read_text().splitlines()]
    assert len(kept) == 60 and all(row["note"] == "half \ud800" for row in kept)


def test_a_row_without_a_box_is_left_out_and_no_other_field_is_taken_for_one(tmp_path: Path) -> None:
    rows = [
        row | {"boxed_answer": "another"} | ({"solution": "none"} if n % 20 == 0 else {}) for n, row in enumerate(MATH)
    ]
    made = make(tmp_path / "job", write(tmp_path / "mine.jsonl", rows), str(BASE), None)
    kept = [json.loads(line) for file in made.job.parent.glob("data/*.jsonl") for line in file.open()]
    assert len(kept) == 95 and all(row["boxed_answer"].startswith("\\frac") for row in kept)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "mine.jsonl", GSM8K)
    make(tmp_path / "job", data, str(BASE), None)
    before = (tmp_path / "job/job.yaml").read_bytes()
    with pytest.raises(BadInput, match="exists already"):
        make(tmp_path / "job", data, str(BASE), None)
    assert (tmp_path / "job/job.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "found"),
    [(r"so \boxed{a{b}c}.", "a{b}c"), (r"\boxed{1} or \boxed{2}", "2"), (r"\boxed{1", None), ("1", None)],
)
def test_a_box_is_read_to_its_end(text: str, found: str | None) -> None:
    assert boxed_in(text) == found


def test_fields_are_those_that_every_row_has() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "prompt": "a", "question": "b", "gold": "3"},
        {"id": 1, "prompt": "a", "gold": "4"},
    ]
    assert fields_of(rows, None, "f") == Fields("math", "prompt", "gold", numbers=True)


@pytest.mark.parametrize(
    ("parameters", "rate"), [(500_000, 3e-5), (135_000_000, 1e-5), (1_500_000_000, 3e-6), (8e9, 7e-7), (None, 7e-7)]
)
def test_the_learning_rate_goes_with_the_size(tmp_path: Path, parameters: int | None, rate: float) -> None:
    text = job_text("a", Fields("math", "question", "answer"), Base("ORG/NAME", True, parameters), 5000, None)
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml").job
    assert job.train.learning_rate == rate and job.data.prompts == "split" and job.data.chat
    assert (job.train.precision == "fp32") == (parameters == 500_000)
