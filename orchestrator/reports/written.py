"""What a run tells of itself in its folder: report.md, and report.html beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.columns import Reporting
from orchestrator.reports.page.page import NAME, write_page
from orchestrator.reports.report import write_report

REPORTS = ("report.md", NAME)


def write_reports(run_dir: Path, sources: Mapping[str, Reporting], ledger: Ledger | None = None) -> None:
    """Write both, the shorter one first; `sources` are those of pairs, by name.

    Raises:
        BadInput, Damaged, OSError: as `write_report`.
    """
    write_report(run_dir, sources, ledger)
    write_page(run_dir, sources, ledger)
