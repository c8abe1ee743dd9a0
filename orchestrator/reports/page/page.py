"""report.html, and the page of a comparison, assembled: one file that asks no network for anything, and in which
nothing that a run holds can become markup or code. Derived, like report.md: delete it, and it is made again.

What the run says goes into a data block as gzip in base64, whose letters end no element; the script shows it by
`textContent` alone. A policy in the page (Content Security Policy Level 3) lets run only the very script and style that
are in it, by their sha256, and lets nothing be loaded or sent.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from orchestrator import __version__
from orchestrator.files.durable import replace
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.columns import Reporting
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.views import Document
from orchestrator.reports.page.answers import CAP, Answers
from orchestrator.reports.page.figures import figures
from orchestrator.reports.status import open_run
from orchestrator.text.shown import as_json, line

NAME = "report.html"
"""In the run's folder."""
SCRIPTS = ("text.js", "charts.js", "common.js", "samples.js", "page.js")
"""In the order in which they stand in the page."""


def write_page(
    run_dir: Path, sources: Mapping[str, Reporting], ledger: Ledger | None = None, file: Path | None = None
) -> Path:
    """Write the page into the run's folder, or to another file; returns its path. `sources` are those of pairs, by
    name.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a ledger record cannot be read.
        OSError: the file cannot be written.
    """
    file = file or run_dir / NAME
    replace(file, page(document(run_dir, sources, ledger)))
    return file


def document(run_dir: Path, sources: Mapping[str, Reporting], ledger: Ledger | None = None, cap: int = CAP) -> Document:
    """What the page shows, as a JSON value: `figures`, `answers` with texts of at most about `cap` characters, what was
    `left_out` since it could not be read, and the `version` that made it."""
    ledger = ledger or open_run(run_dir)
    answers = Answers(RunReader(run_dir, ledger), cap)
    held = answers.document()
    told = figures(run_dir, sources, ledger)
    return {"version": __version__, "figures": told, "answers": held, "left_out": answers.left_out}


def page(told: Document) -> bytes:
    """The page of a document, in UTF-8."""
    return assembled("page.html", SCRIPTS, told["figures"]["name"], told)


def assembled(frame: str, scripts: Sequence[str], title: str, told: Document) -> bytes:
    """A page in UTF-8: a frame of this folder with its title, the style, these scripts and the data that they show."""
    style, script = _part("page.css"), "".join(map(_part, scripts))
    data = base64.b64encode(gzip.compress(as_json(told, indent=None).encode("ascii"), 6, mtime=0)).decode("ascii")
    filled = {
        "POLICY": (
            f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        "TITLE": html.escape(line(title)),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
    }
    return re.sub("@([A-Z]+)@", lambda found: filled[found[1]], _part(frame)).encode()


def _digest(text: str) -> str:
    """As a policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@cache
def _part(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
