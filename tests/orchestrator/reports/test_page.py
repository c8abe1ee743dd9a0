"""report.html: one file without network, in which whatever a run holds is text."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from orchestrator.ledger.ledger import Ledger
from orchestrator.records.parquet import read_table
from orchestrator.reports.page.answers import ROW
from orchestrator.reports.page.page import document, page
from orchestrator.sources.registry import SOURCES
from orchestrator.text.shown import text
from tests.orchestrator.test_cli import ratchet
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, right, wrong
from tests.support.sample_run import SampleRun, two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job

HOSTILE = '</script><script>window.obeyed=1</script><img src=x onerror="window.obeyed=1">\u2028\u202e\x00\x1b[2J--><!--'


class Hostile(StandIns):
    """A model that says such things."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run_job(make_project(folder, rounds=2), StandIns())
    return folder / "run"


def held(content: bytes) -> dict[str, Any]:
    """The data block of a page."""
    [block] = re.findall(rb'<script type="application/octet-stream" id="data">([^<]*)</script>', content)
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(block)))
    return found


def test_a_run_writes_it_and_the_command_makes_it_again(made: Path, tmp_path: Path) -> None:
    written = (made / "report.html").read_bytes()
    assert held(written)["figures"]["state"] in ("running", "finished")
    assert ratchet("report", made, "-o", tmp_path / "page.html") == 0
    told = held((tmp_path / "page.html").read_bytes())
    assert told["figures"]["state"] == "finished" and told["left_out"] == []
    assert [row["round"] for row in told["figures"]["rounds"]] == [0, 1, 2]
    assert told["answers"]["shown"] == told["answers"]["all"] == 160


def test_only_its_own_script_and_style_may_run_and_nothing_may_be_loaded(made: Path) -> None:
    text = page(document(made, SOURCES)).decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    for kind, element in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        [inline] = re.findall(element, text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=\"?(https?:)?//", text) and "innerHTML" not in text


def test_what_a_run_says_is_in_the_block_and_nowhere_else(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "run", name="a")
    told = document(run.root, SOURCES)
    told["figures"]["name"] = HOSTILE
    told["answers"]["problems"] = [["gate", HOSTILE, HOSTILE, HOSTILE]]
    content = page(told)
    assert b"window.obeyed" not in content.replace(b"&lt;script&gt;window.obeyed=1", b"").replace(
        b"onerror=&quot;window.obeyed", b""
    )
    assert held(content)["answers"]["problems"][0][1] == HOSTILE


def test_the_page_shows_as_escapes_what_a_terminal_is_shown_as_escapes() -> None:
    script = importlib.resources.files("orchestrator.reports.page").joinpath("text.js").read_text()
    [said] = re.findall(r"/(\[.*\])/gu;", script)
    obeyed = re.compile(re.sub(r"\\u\{([0-9a-f]+)\}", lambda found: f"\\U{found[1]:0>8}", said))
    assert [c for c in map(chr, range(0x110000)) if bool(obeyed.match(c)) != (text(c) != c)] == []


def test_a_cap_shows_flips_first_and_says_what_is_left(made: Path) -> None:
    told = document(made, SOURCES, cap=3_000)["answers"]
    assert 0 < told["shown"] < told["all"] == 160
    columns = told["columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in told["samples"]]
    assert any(row["flip"] for row in rows) and {row["split"] for row in rows} >= {"gate", "test"}


def test_shards_behind_the_cap_are_not_read(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    before = document(run, SOURCES, cap=1_000)
    first, *_, last = sorted((run / "rounds/02/samples").glob("*.parquet"))
    assert before["answers"]["pairs"] and before["answers"]["shown"] < before["answers"]["all"]
    last.write_bytes(b"torn")
    assert document(run, SOURCES, cap=1_000) == before
    first.write_bytes(b"torn")
    assert document(run, SOURCES, cap=1_000)["left_out"]


def test_pairs_that_came_with_their_texts_are_shown_as_far_as_they_fit(tmp_path: Path) -> None:
    run_job(make_stages(tmp_path, {"hard": wrong("h", 90), "easy": right("e", 90)}), PreferenceStandIns())
    whole = document(tmp_path / "run", SOURCES)
    assert whole["left_out"] == [] and len(whole["answers"]["pairs"]) == 180
    rows = read_table(tmp_path / "run/rounds/02/pairs/00000.parquet").to_pylist()
    shown = [pair for pair in whole["answers"]["pairs"] if pair["round"] == 2]
    sides = ("pair_id", "chosen", "rejected")
    assert [[pair[side] for side in sides] for pair in shown] == [[row[side] for side in sides] for row in rows]
    part = document(tmp_path / "run", SOURCES, cap=1_000)["answers"]["pairs"]
    assert 0 < len(part) < 180 and all(pair in whole["answers"]["pairs"] for pair in part)


def test_the_cap_counts_rows_and_all_of_their_texts(made: Path, tmp_path: Path) -> None:
    """Else a stranger's run of some megabytes, with millions of empty samples, fills the memory; so would one whose
    graders quote whole texts."""
    told = document(made, SOURCES, cap=3_000)["answers"]
    held_rows = [*told["samples"], *told["problems"], *told["pairs"]]
    assert len(held_rows) * ROW <= 3_000 + 4 * ROW, "the last problem may stand over"
    run = tmp_path / "run"
    shutil.copytree(made, run)
    for file in (run / "rounds/02/verdicts").glob("*.parquet"):
        table = read_table(file)
        place = table.column_names.index("extracted")
        write_table(table.set_column(place, "extracted", pa.array(["7" * 50_000] * len(table))), file)
    assert len(json.dumps(document(run, SOURCES, cap=100_000)["answers"])) < 200_000


def test_samples_that_fill_the_cap_leave_room_for_their_pairs(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, rounds=1), StandIns())
    told = document(tmp_path / "run", SOURCES, cap=12_000)["answers"]
    assert told["shown"] < told["all"] and len(told["pairs"]) > 1


@pytest.mark.parametrize("state", ["empty", "claimed", "damaged", "copied", "gone"])
def test_any_run_has_a_page(made: Path, tmp_path: Path, state: str) -> None:
    run = tmp_path / "run"
    if state in ("empty", "claimed"):
        made_up = SampleRun(run)
        made_up.claim()
        if state == "claimed":
            made_up.configure()
    else:
        shutil.copytree(made, run)
    if state == "damaged":
        next((run / "rounds/01/verdicts").glob("*.parquet")).write_bytes(b"torn")
    if state == "gone":
        shutil.rmtree(run / "rounds/02/samples")
    told = held(page(document(run, SOURCES)))
    assert bool(told["left_out"]) == (state == "damaged" or state == "gone"), told["left_out"]
    assert told["figures"]["records"] == len(Ledger(run / "ledger").records)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "page.md"], "must end in .html"),
        (["-o", "no/page.html"], "there is no folder"),
        (["-o", "RUN/rounds/page.html"], "lies in the run "),
        (["-o", "RUN/ledger/page.html"], "/report.html, is made by `ratchet report "),
    ],
)
def test_mistakes_have_one_message(
    made: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ratchet("report", made, *(argument.replace("RUN", str(made)) for argument in arguments)) == 2
    assert said in capsys.readouterr().err
