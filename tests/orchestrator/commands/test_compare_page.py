"""`ratchet compare RUN RUN --page FILE`: one file without network, with the figures that the terminal shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.compare.page import document, page
from orchestrator.commands.compare.side_by_side import paired, side
from orchestrator.reports.page.answers import ROW
from tests.orchestrator.reports.test_page import HOSTILE, held
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folders = [tmp_path_factory.mktemp(name) for name in ("irpo", "dpo")]
    run_job(make_project(folders[0], rounds=2), StandIns())
    run_job(make_project(folders[1], rounds=1, method="dpo", loss={"beta": 0.3}), StandIns(gain=0.05))
    return [str(folder / "run") for folder in folders]


def test_its_figures_are_those_of_the_table(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ratchet("compare", *runs, "--page", tmp_path / "compare.html") == 0
    assert f"page      {tmp_path / 'compare.html'}: 16 of 16 test problems" in capsys.readouterr().out
    told = held((tmp_path / "compare.html").read_bytes())
    test = paired(*map(side, runs))
    first, other = told["sides"]
    assert (first["won"], first["p_value"]) == (None, None)
    assert (other["won"], other["lost"], other["shared"]) == (test.won, test.lost, 16)
    assert [row["round"] for row in first["rounds"]] == [0, 1, 2] and len(other["rounds"]) == 2
    assert {"key": "loss.beta", "values": [0.1, 0.3]} in told["settings"]
    assert f"solves {test.won} that" in told["sentences"][0] and told["left_out"] == []


def test_each_problem_has_every_models_answer_and_those_that_differ_come_first(runs: list[str]) -> None:
    told = document([f"{runs[0]}@round2", f"{runs[0]}@round0", runs[1]])
    right = [[answer["verdict"] == "correct" for answer in problem["answers"]] for problem in told["problems"]]
    differ = [len(set(each)) > 1 for each in right]
    assert len(right) == told["all"] == 16 and any(differ) and differ == sorted(differ, reverse=True)
    for at, name in enumerate((f"{runs[0]}@round2", f"{runs[0]}@round0", runs[1])):
        assert sum(each[at] for each in right) == side(name).figures["correct"]
    assert all(problem["gold"] and problem["prompt"].startswith("test ") for problem in told["problems"])


def test_only_its_own_script_and_style_may_run_and_what_runs_say_is_in_the_block(runs: list[str]) -> None:
    told = document(runs)
    told["sides"][0]["name"] = HOSTILE
    told["problems"][0]["prompt"] = HOSTILE
    told["problems"][0]["answers"][1]["text"] = HOSTILE
    text = page(told).decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    for kind, element in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        [inline] = re.findall(element, text, re.DOTALL)
        assert f"{kind} 'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ") and not re.search(r"(src|href)=\"?(https?:)?//", text)
    assert "<img" not in text and text.count("</script>") == 2
    assert held(text.encode())["problems"][0]["answers"][1]["text"] == HOSTILE


def test_a_cap_keeps_those_that_differ_and_says_what_is_left(runs: list[str]) -> None:
    told = document([f"{runs[0]}@round0", runs[0]], cap=4 * ROW)
    assert 0 < len(told["problems"]) < told["all"] == 16
    first = told["problems"][0]["answers"]
    assert (first[0]["verdict"] == "correct") != (first[1]["verdict"] == "correct")


def test_what_holds_no_text_takes_room_and_no_text_is_held_whole(runs: list[str], tmp_path: Path) -> None:
    """Somebody else's gold answers may be as long as texts, and their texts empty."""
    run = Path(shutil.copytree(runs[1], tmp_path / "run"))
    table = pq.read_table(file := run / "rounds/01/evaluation/test.parquet")
    for column in ("extracted", "gold"):
        at = table.schema.names.index(column)
        table = table.set_column(at, table.schema.field(at), pa.array(["x" * 50_000] * table.num_rows))
    pq.write_table(table, file)
    told = document([str(run)])
    assert len(told["problems"]) == told["all"] == 16
    for problem in told["problems"]:
        assert all(len(problem["gold"]) < 21_000 > len(one["extracted"]) for one in problem["answers"])
    assert len(json.dumps(document([str(run)], cap=100_000)["problems"])) < 110_000
    assert len(document(runs, cap=10 * ROW)["problems"]) <= 3


@pytest.mark.parametrize("place", ["rounds/page.html", "ledger/page.html", "page.html", "report.html"])
def test_a_page_goes_into_no_run(runs: list[str], place: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(runs[0], "report.html").read_bytes()
    assert ratchet("compare", *runs, "--page", f"{runs[0]}/{place}") == 2
    assert f"--page {runs[0]}/{place}: lies in the run {runs[0]}" in capsys.readouterr().err
    assert place == "report.html" or not Path(runs[0], place).exists()
    assert Path(runs[0], "report.html").read_bytes() == before


def test_a_run_whose_answers_are_gone_is_told_and_the_others_are_shown(runs: list[str], tmp_path: Path) -> None:
    gone = Path(shutil.copytree(runs[1], tmp_path / "gone"))
    (gone / "rounds/01/evaluation/test.parquet").unlink()
    told = document([runs[0], str(gone)])
    assert all(problem["answers"][1] is None for problem in told["problems"]) and len(told["problems"]) == 16
    assert "have answered no test problem both" in told["sentences"][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "RUN", "--page", "page.md"], "--page page.md: the name must end in .html"),
        (["RUN", "RUN", "--page", "no/page.html"], "there is no folder"),
        (["RUN", "RUN@round9", "--page", "page.html"], "round 9 has no evaluation"),
        (["file.yaml", "--page", "page.html"], "a page is made of runs"),
    ],
)
def test_mistakes_have_one_message(
    runs: list[str], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ratchet("compare", *(each.replace("RUN", runs[0]) for each in arguments)) == 2
    assert said in capsys.readouterr().err
