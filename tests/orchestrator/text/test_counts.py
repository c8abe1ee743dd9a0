"""Figures in one notation."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.text.counts import bracketed, many

PROJECT = Path(__file__).parents[3]


def test_one_is_no_plural() -> None:
    assert [many(number, "pair") for number in (0, 1, 2, 1280)] == ["0 pairs", "1 pair", "2 pairs", "1,280 pairs"]
    assert many(1, "prefix", "prefixes") == "1 prefix" and many(2, "prefix", "prefixes") == "2 prefixes"


def test_an_interval() -> None:
    assert bracketed(-0.064, 0.398) == "[-6.4, 39.8]"


def test_no_other_notation_of_an_interval_is_written() -> None:
    other = re.compile(r":\.1f\}(–| to |, ?)\{")
    own = PROJECT / "orchestrator/text/counts.py"
    files = [file for file in (PROJECT / "orchestrator").rglob("*.py") if file != own]
    assert not [
        f"{file}: {line}"
        for file in files
        for line in file.read_text().splitlines()
        if other.search(line) and re.search(r"low|high|bound|interval", line)
    ]
