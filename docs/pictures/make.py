"""Makes the pictures of the README from a run: what a terminal shows (SVG), and its page in a browser (PNG).

    python docs/pictures/make.py [RUN]

RUN is runs/irpo, the demo's, unless given. The page needs a Chromium of the machine; without one it is left out.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from orchestrator.reports.page.page import document, page
from orchestrator.reports.progress.model import read_progress
from orchestrator.reports.progress.picture import Size, picture
from orchestrator.reports.status import open_run
from orchestrator.sources.registry import SOURCES

HERE = Path(__file__).parent
COLUMNS, LINES = 96, 30
WIDTH, HEIGHT = 1280, 590
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars")


def terminal(run: Path) -> None:
    """What the run's terminal showed last."""
    progress = read_progress(run, open_run(run).state)
    assert progress is not None, f"{run} has no progress.json"
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(picture(progress, Size(COLUMNS, LINES)))
    svg = console.export_svg(title="ratchet run jobs/irpo.yaml", unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL)  # a picture that loads nothing
    (HERE / "terminal.svg").write_text(svg)


def browser(run: Path) -> None:
    """The upper part of the run's page."""
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if binary is None:
        print("no Chromium: the picture of the page stays as it is")
        return
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder, "page.html")).write_bytes(page(document(run, SOURCES)))
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={folder}/profile"]
        shot = f"--screenshot={HERE / 'page.png'}"
        size = f"--window-size={WIDTH},{HEIGHT}"
        command = [binary, *flags, size, "--virtual-time-budget=4000", shot, file.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    made_from = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/irpo")
    terminal(made_from)
    browser(made_from)
