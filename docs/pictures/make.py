"""Makes the pictures of README and dashboard.md from a run: what a terminal shows (SVG), its page, and its page in
MLflow, as `ratchet ui` serves it, in a browser (PNG).

    python docs/pictures/make.py [RUN [WIDTH]]

RUN is runs/irpo, the demo's, unless given. The pages need a Chromium of the machine with its driver; without them they
are left out. With a WIDTH only MLflow's page is made, so wide, into the current folder: to look at it.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
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
MLFLOW_HEIGHT, DRAWING = 1000, 12.0  # pixels, seconds
MOUSE = "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
"""Without one, charts show all the time what they show where a mouse is over them."""
CLOSE = "[aria-label='Close'], [aria-label='Close Assistant']"
DRIVERS = ("chromedriver", "chromium.chromedriver")
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


def dashboard(run: Path, width: int = WIDTH, folder: Path = HERE) -> None:
    """The upper part of MLflow's page of the run's curves."""
    binary, driver = (
        next((path for name in names if (path := shutil.which(name))), None) for names in (BROWSERS, DRIVERS)
    )
    if binary is None or driver is None:
        print("no Chromium with its driver: the picture of MLflow stays as it is")
        return
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    command = [sys.executable, "-m", "orchestrator", "ui", str(run)]
    with (
        tempfile.TemporaryDirectory() as profile,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout
        address = next(line for line in server.stdout if line.startswith("dashboard"))
        options = Options()
        options.binary_location = binary
        for flag in (*FLAGS, MOUSE, *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        opened = webdriver.Chrome(options=options, service=Service(driver))
        try:
            opened.set_window_size(width, MLFLOW_HEIGHT)
            opened.get(address.split()[1])
            time.sleep(DRAWING)
            for close in opened.find_elements("css selector", CLOSE):
                if close.is_displayed():  # MLflow's panel "Assistant"
                    close.click()
            time.sleep(1)
            opened.save_screenshot(str(folder / "mlflow.png"))
        finally:
            opened.quit()
            server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    made_from = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/irpo")
    if len(sys.argv) > 2:
        dashboard(made_from, int(sys.argv[2]), Path())
    else:
        terminal(made_from)
        browser(made_from)
        dashboard(made_from)
