"""What is told of gold answers that no grader reads, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.config import Grade
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.wiring import unread_golds
from orchestrator.errors import BadInput
from orchestrator.inputs.gold_check import check_golds
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.golds import joined
from orchestrator.records.rows import Problem
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job
from workers.grading.gold_check import unread_golds as ask_for


def project(folder: Path, answers: Sequence[Any], **changes: Any) -> Path:
    """A job whose first training problems have these gold answers."""
    job = make_project(folder, **changes)
    file = folder / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, answer in zip(rows, answers, strict=False):
        row["answer"] = answer
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return job


@pytest.mark.parametrize(
    ("graders", "unread"),
    [
        (["number"], ["some pens", "a | 2"]),
        (["number", "exact"], []),
        (["math"], []),
        (["regex:(\\d+) km"], ["7", "some pens", "1/2", "It is $\\boxed{8}$.", "so\n#### 9", "a | 2"]),
        ([{"all_of": ["number", "exact"]}], ["some pens", "a | 2"]),
    ],
)
def test_gold_answers_are_asked_as_answers_to_themselves(graders: Any, unread: list[str]) -> None:
    golds = ["7", "7", "some pens", "5 km", "1/2", "It is $\\boxed{8}$.", "so\n#### 9", joined(["a", "2"])]
    found, asked = unread_golds(Grade(graders=graders), golds)
    assert [gold.replace("\x1e", " | ") for gold in found] == unread and asked == 7
    assert all(found.values())


def test_a_gold_answer_that_a_grader_dies_over_is_told_too_and_time_is_bounded() -> None:
    settings = Grade(graders=["regex:((?:a|aa)+)b"], timeout=0.3)
    found, _ = ask_for(settings, ["a" * 200, "aab"], seconds=60)
    assert found == {"a" * 200: "timeout"}
    assert ask_for(settings, ["aab", "aab", "ab"], seconds=-1) == ({}, 0)


def test_validate_names_file_row_value_and_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = project(tmp_path, ["1", "2", "some pens"])
    assert ratchet("validate", job, "grade.graders=[number]") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("golds")]
    assert "data.train: no grader of grade.graders reads 1 of 20 gold answers" in line
    assert f"{tmp_path / 'train.jsonl'}, line 3: 'some pens' (number: " in line
    assert "add a grader that reads them (`exact` compares any text" in line
    for fine in ("[number,exact]", "[number,judge]", "['python:tests.orchestrator.inputs.test_gold_check:project']"):
        assert ratchet("validate", job, f"grade.graders={fine}", "judge.model=m") == 0
        assert "golds" not in capsys.readouterr().out


class Counted(list[Problem]):
    """Problems that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[Problem]:
        self.times += 1
        return super().__iter__()


def test_problems_are_read_once_whatever_is_asked_of_them(tmp_path: Path) -> None:
    file = load_job(make_project(tmp_path))
    problems = {
        split: Counted(Problem(f"{split}-{n}", "?", gold, None) for n, gold in enumerate(["1", "x", "1", "2", "3"]))
        for split in ("gate", "test")
    }

    def ask(_: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
        """Of the first three, and no more."""
        looked = list(islice(golds, 3))
        return {"x": "no number"}, len(set(looked))

    unread, other, few = check_golds(file, problems, ask)
    assert "data.gate: no grader of grade.graders reads 1 of 5 gold answers" in unread and "'x' (no number)" in unread
    assert "data.test: no grader of grade.graders reads 1 of 5" in other
    assert few == "only 2 of 4 different gold answers were looked at, to save time"
    assert [rows.times for rows in problems.values()] == [1, 1]


def test_a_job_whose_gold_answers_are_mostly_unread_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = project(tmp_path, [f"word {n}" for n in "abcdefghijkl"])
    assert ratchet("validate", job, "grade.graders=[number]") == 2
    said = capsys.readouterr().err
    assert "reads 12 of 20 gold answers" in said and "line 3: 'word c'" in said and "and 9 more" in said
    assert ratchet("run", job, "grade.graders=[number]") == 2
    assert not (tmp_path / "run" / "ledger").exists()
    # Their own answers are what is imitated, and no sample is compared with them.
    imitated = ("data.solution=answer", "method=sft", "grade.graders=[number]")
    assert ratchet("validate", job, *imitated) == 0, capsys.readouterr().err


def test_a_run_tells_it_before_it_starts_and_not_again(tmp_path: Path) -> None:
    job = load_job(project(tmp_path, ["some pens"]), ["grade.graders=[number]", "rounds=1"])
    said: list[str] = []
    for times in (1, 1):
        drive(job, said.append, [], lambda _job, _logs: StandIns(), ask=unread_golds)
        assert sum(line.startswith("golds     data.train: no grader") for line in said) == times


def test_a_fork_with_other_graders_is_looked_at(tmp_path: Path) -> None:
    """What it was offered is not what it has done."""
    run_job(project(tmp_path, ["some pens"]), StandIns(), "rounds=1")
    fork(tmp_path / "run", tmp_path / "child", ["grade.graders=[number]"])
    job, said = load_job(tmp_path / "child/job.yaml", []), list[str]()
    drive(job, said.append, [], lambda _job, _logs: StandIns(), ask=unread_golds)
    assert any(line.startswith("golds     data.train: no grader") for line in said)


def test_what_a_new_run_is_refused_for_a_begun_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on all the same, so `validate` must not say that it would not."""
    job = project(tmp_path, [f"word {n}" for n in "abcdefghijkl"])
    more = ("rounds=1", "grade.graders=[number]")
    assert ratchet("validate", job, *more) == 2
    assert "reads 12 of 20 gold answers" in capsys.readouterr().err
    run_job(job, StandIns(), *more)  # as a version that did not look has begun it
    assert ratchet("validate", job, *more) == 0, capsys.readouterr().err
    assert "golds     data.train: no grader of grade.graders reads 12 of 20" in capsys.readouterr().out


@pytest.mark.parametrize("graders", ["[choice]", "[exact,choice]"])
def test_options_counted_from_0_are_told_from_letters(
    tmp_path: Path, graders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = project(tmp_path, [n % 4 for n in range(20)])
    told = "data.train: the gold answers are 0, 1, 2, 3, which look like options counted from 0"
    code = ratchet("validate", job, f"grade.graders={graders}")
    said = capsys.readouterr()
    assert (code, told in said.err, told in said.out) == (
        (2, True, False) if graders == "[choice]" else (0, False, True)
    )
    assert "name the field with the options as `data.choices`" in said.err + said.out
    project(tmp_path, ["1", "2", "3", "4"] * 5)  # as some data sets name their options
    assert ratchet("validate", job, f"grade.graders={graders}") == 0
    assert "counted from 0" not in capsys.readouterr().out


def test_a_run_of_before_reads_its_numbers_as_it_did(tmp_path: Path) -> None:
    """What an earlier version made of 1.0 was "1.0", and of 18.9 in 32 bits "18.899999618530273"."""
    numbers = [1.0, 18.899999618530273, *map(float, range(3, 21))]
    job = project(tmp_path, [repr(number) for number in numbers])
    run_job(job, StandIns(), "rounds=1")
    project(tmp_path, numbers)
    with pytest.raises(BadInput, match="has other problems than when"):
        run_job(job, StandIns(), "rounds=2")
    ledger = Ledger(tmp_path / "run" / "ledger")
    config = dict(ledger.state.configs[-1])
    assert config.pop("reading") == 2
    ledger.claim({"host": "of before"})
    ledger.append("config", config)
    run_job(job, StandIns(), "rounds=2")
    state = Ledger(tmp_path / "run" / "ledger").state
    assert "rounds/02/train" in state.commits and state.configs[-1]["reading"] == 1
    child = tmp_path / "child"
    assert ratchet("fork", tmp_path / "run", child, "loss.beta=0.3") == 0
    run_job(child / "job.yaml", StandIns())
    made = [r.data for r in Ledger(child / "ledger").records if r.kind == "commit"]
    [prompts] = [commit for commit in made if commit["step"] == "rounds/01/prompts"]
    assert prompts["fingerprint"] == state.commits["rounds/01/prompts"].fingerprint
