"""How far a run is archived, as `ratchet status` tells it: from a file that is only a cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.reports.archived import CURSOR_FILE, Cursor, archive_line, archived, read_cursor, write_cursor
from orchestrator.reports.status import render, status
from orchestrator.text.terminal import Screen
from tests.support.sample_run import two_rounds


def test_what_is_missing_is_told_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = two_rounds(tmp_path / "run", archive="s3://bucket/{name}-{seed}").root
    num = len(list((run / "ledger").iterdir()))
    assert status(run)["archive"] == {"address": "s3://bucket/sample-0", "records": None, "of": num, "problem": None}
    assert "s3://bucket/sample-0; what it has is not known here" in archive_line(status(run)["archive"])
    write_cursor(run, Cursor("s3://bucket/sample-0", num - 2, problem="access denied\x1b[2J"))
    Screen().print(render(status(run)))
    out = " ".join(capsys.readouterr().out.split())
    assert f"archive: s3://bucket/sample-0 has {num - 2} of {num} records" in out and "2 are not there: access" in out
    assert "\x1b" not in out
    write_cursor(run, Cursor("s3://bucket/sample-0", num))
    assert "not there" not in archive_line(status(run)["archive"])


def test_what_was_sent_elsewhere_does_not_count(tmp_path: Path) -> None:
    write_cursor(tmp_path, Cursor("s3://bucket/before", 7))
    assert archived(tmp_path, "s3://bucket/now", 9) == {
        "address": "s3://bucket/now", "records": None, "of": 9, "problem": None,
    }  # fmt: skip
    by_hand = archived(tmp_path, None, 9)
    assert by_hand is not None and by_hand["records"] == 7


@pytest.mark.parametrize(
    "said",
    [
        "{", "[]", '{"address": 1}', '{"address": "x", "records": -1}', '{"address": "x", "records": true}',
        '{"address": "x", "another": 1}', '{"address": "x", "beside": {"job.yaml": ["1", 2, "x"]}}',
        '{"address": "x", "beside": []}', '{"address": "x", "problem": 3}',
    ],
)  # fmt: skip
def test_a_cache_that_is_none_is_no_cache(tmp_path: Path, said: str) -> None:
    (tmp_path / CURSOR_FILE).write_text(said)
    assert read_cursor(tmp_path) is None and archived(tmp_path, None, 3) is None
    (tmp_path / CURSOR_FILE).write_text(json.dumps({"address": "x"}))
    assert read_cursor(tmp_path) == Cursor("x")
