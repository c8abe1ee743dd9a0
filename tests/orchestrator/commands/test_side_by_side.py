"""`ratchet compare RUN RUN`: models side by side, on what both answered."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.commands.compare.side_by_side import Side, differences, paired, render, side
from orchestrator.commands.fork.command import fork
from orchestrator.errors import BadInput
from orchestrator.rounds.evaluation import solved
from orchestrator.text.terminal import Lasting, Screen
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp(name) for name in ("irpo", "dpo")]
    run_job(make_project(folders[0], rounds=2), StandIns())
    run_job(make_project(folders[1], rounds=1, method="dpo", loss={"beta": 0.3}), StandIns())
    return [folder / "run" for folder in folders]


def made_up(name: str, solved_by: str) -> Side:
    """Of problems 0 to 9, those that are named."""
    answers = {(str(n), ""): str(n) in solved_by for n in range(10)}
    return Side(name, Path(name), 1, {"method": "irpo", "loss": {"beta": 0.1}}, {}, answers, 3)


def test_a_paired_test_counts_what_one_alone_solves() -> None:
    found = paired(made_up("a", "012345"), made_up("b", "3456789"))
    assert (found.won, found.lost, found.shared) == (4, 3, 10)
    assert found.p_value == 1.0
    clear = paired(made_up("a", ""), made_up("b", "012345"))
    assert clear.p_value == pytest.approx(2 / 64)


def test_problems_are_the_same_by_their_text() -> None:
    left, right = made_up("a", "01"), made_up("b", "12")
    other = Side(
        "b", Path("b"), 1, right.job, {}, {(f"{text}?", gold): said for (text, gold), said in right.solved.items()}, 3
    )
    assert paired(left, other).shared == 0 and paired(left, other).p_value == 1.0


def test_runs_are_shown_side_by_side(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("compare", *runs, f"{runs[0]}@round1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(m["round"], m["method"]) for m in found["models"]] == [(2, "irpo"), (1, "dpo"), (1, "irpo")]
    files = [runs[0] / "rounds/02", runs[1] / "rounds/01", runs[0] / "rounds/01"]
    answers = [solved(file / "evaluation/test.parquet") for file in files]
    for test, other in zip(found["paired"], answers[1:], strict=True):
        assert test["won"] == sum(other[name] and not answers[0][name] for name in other)
        assert test["lost"] == sum(answers[0][name] and not other[name] for name in other)
        assert test["shared"] == len(other)
    assert found["settings"]["loss.beta"] == [0.1, 0.3, 0.1] and "name" not in found["settings"]
    assert ratchet("compare", *runs) == 0
    said = capsys.readouterr().out
    assert "75.0 %" in said and "loss.beta" in said
    assert ratchet("compare", runs[0]) == 0
    assert "all settings are the same" in capsys.readouterr().out


def test_a_setting_of_somebody_else_fills_no_screen() -> None:
    long = replace(made_up("b", "1"), job={"method": "x" * 1_000_000})
    Screen(file=Lasting(screen := io.StringIO())).print(render([made_up("a", "1"), long]))
    assert len(screen.getvalue()) < 20_000


def test_mistakes_have_one_message(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for named, said in ((f"{runs[0]}@round9", "round 9 has no evaluation"), (tmp_path / "no", "no such run")):
        assert ratchet("compare", runs[0], named) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(BadInput, match="round 9"):
        side(f"{runs[0]}@round9")


def test_only_what_differs_is_told(runs: list[Path]) -> None:
    assert differences([side(str(runs[0])), side(str(runs[0]))]) == {}


def test_a_fork_differs_from_its_run_in_what_was_changed_alone(runs: list[Path], tmp_path: Path) -> None:
    """It has absolute paths where its run has some that are relative to the job file."""
    fork(runs[0], tmp_path / "hot", ["loss.beta=0.2"])
    run_job(tmp_path / "hot/job.yaml", StandIns())
    assert differences([side(str(runs[0])), side(str(tmp_path / "hot"))]) == {"loss.beta": [0.1, 0.2]}


def test_files_of_one_name_in_two_folders_are_told_by_their_folders(tmp_path: Path) -> None:
    sides = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run_job(make_project(tmp_path / name), StandIns(), "rounds=1")
        sides.append(side(str(tmp_path / name / "run")))
    told = differences(sides)
    assert told["data.test.path"] == [str(tmp_path / name / "test.jsonl") for name in ("a", "b")]
    assert all(values[0] != values[1] for values in told.values())
