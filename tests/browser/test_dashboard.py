"""Every address that is printed for a person, opened in a real browser, on MLflow's real server.

The run is a stranger's: what its model said, and its names, would be obeyed by a page that took them for HTML.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.files.processes import pid_exists
from orchestrator.records.rows import EVALUATION, PROMPTS
from orchestrator.tracking.tracker import sync
from tests.support.sample_run import SampleRun, evaluation, two_rounds

pytestmark = pytest.mark.browser

PROJECT = Path(__file__).resolve().parents[2]
SHOUT = "document.title='obeyed';window.obeyed=1"
HOSTILE = f'<img src=x onerror="{SHOUT}"><script>{SHOUT}</script>[a](javascript:{SHOUT}) ![b](http://127.0.0.1:9/x)'
START, SHOWN = 150.0, 60.0  # seconds


def of_a_stranger(root: Path) -> SampleRun:
    """A run whose texts and names are hostile."""
    run = SampleRun(root, name="stranger", model=f"/{HOSTILE}")
    run.claim()
    run.configure()
    asked = [{"prompt_id": f"gate-{i}", "text": HOSTILE, "token_ids": [1], "gold": HOSTILE} for i in range(6)]
    table = pa.Table.from_pylist(asked, PROMPTS)
    run.commit("baseline/prompts", {"gate": 6, "test": 0, "prompts": 6}, {"gate.parquet": table})
    for step, verdict, correct in (("baseline", "wrong", 0), ("rounds/01", "correct", 6)):
        if step != "baseline":
            run.prompts(1)
            run.samples_and_verdicts(1)
            run.train(1)
        rows = [
            {"split": "gate", "prompt_id": f"gate-{i}", "text": HOSTILE, "token_ids": [1], "finish_reason": "stop"}
            | {"verdict": verdict, "extracted": HOSTILE, "cause": None}
            for i in range(6)
        ]
        facts = {"gate": evaluation(correct, 6), "probe": None, "seconds": 1.0}
        run.commit(f"{step}/evaluation", facts, {"gate.parquet": pa.Table.from_pylist(rows, EVALUATION)})
    run.promote(1, reason=HOSTILE)
    run.end("failed", HOSTILE)
    return run


class Ui:
    """`ratchet ui` in a process of its own, and what it has printed."""

    def __init__(self, runs: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "RATCHET_HOME": str(runs.parent)}
        command = [sys.executable, "-P", "-m", "orchestrator", "ui"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=runs.parent)
        assert self.process.stdout
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("stop"):
                break

    @property
    def links(self) -> dict[str, str]:
        return {line.split()[0]: line.split()[1] for line in self.lines if "http://" in line}

    @property
    def server(self) -> str:
        return self.links["dashboard"].partition("/#")[0]

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    runs = tmp_path_factory.mktemp("project") / "maths/runs"
    for made in (two_rounds(runs / "sample"), of_a_stranger(runs / "stranger")):
        sync(made.root)
    started = Ui(runs)
    yield started
    if started.process.poll() is None:
        started.end()


def shown(browser: Any, address: str, is_there: Callable[[str], bool]) -> str:
    """The text of a page, once it shows what is looked for."""
    browser.get("about:blank")
    browser.get(address)
    deadline, text = time.monotonic() + SHOWN, ""
    while time.monotonic() < deadline:
        text = browser.find_element("tag name", "body").text
        if is_there(text):
            return str(text)
        time.sleep(0.3)
    raise AssertionError(f"{address} shows only: {text[:2000]}")


def require_not_obeyed(browser: Any) -> None:
    assert browser.execute_script("return window.obeyed === undefined && document.title !== 'obeyed'")


def test_every_printed_address_is_a_page_that_shows_what_it_says(ui: Ui, browser: Any) -> None:
    assert sorted(ui.links) == ["compare", "dashboard", "sample"] or sorted(ui.links) == [
        "compare",
        "dashboard",
        "stranger",
    ]
    for width in (1280, 700):
        browser.set_window_size(width, 1500)
        for name, address in ui.links.items():
            if name == "compare":
                text = shown(browser, address, lambda text: "sample" in text and "stranger" in text)
            else:
                text = shown(browser, address, lambda text: bool(re.search(r"accuracy\n\(\d\)", text)))
                assert text.index("accuracy") < text.index("learning"), "what matters most comes first"
            assert "Traces" in text and "Runs" in text, "it is the page of training, not of agents"
            require_not_obeyed(browser)


def of(ui: Ui, name: str) -> str:
    """The address of a run's overview."""
    links = dict(ui.links)
    other = next(key for key in links if key not in ("compare", "dashboard"))
    page = links[name] if name == other else links["dashboard"]
    return page.partition("/model-metrics")[0]


def test_the_overview_says_what_came_out_and_how_to_go_on(ui: Ui, browser: Any) -> None:
    browser.set_window_size(1280, 1500)
    text = shown(browser, f"{of(ui, 'sample')}?workflowType=machine_learning", lambda text: "2 of 2 rounds" in text)
    assert "40.0 % → 75.0 %" in text and "problems newly solved" in text


def test_what_a_stranger_says_is_text_on_every_page(ui: Ui, browser: Any) -> None:
    browser.set_window_size(1280, 1500)
    base, plain = of(ui, "stranger"), "?workflowType=machine_learning"
    text = shown(browser, base + plain, lambda text: "Description" in text and "javascript:" in text)
    assert "<script>" in text
    require_not_obeyed(browser)
    for file in ("gate.json", "report.md"):
        text = shown(browser, f"{base}/artifacts/{file}{plain}", lambda text: "onerror" in text or "javascript" in text)
        require_not_obeyed(browser)
    rounds = shown(browser, base + plain, lambda text: "stranger round 1" in text)
    assert rounds
    child = browser.find_element("partial link text", "stranger round 1").get_attribute("href").partition("?")[0]
    for file in ("flips.json", "gate.json", "samples.json"):
        shown(browser, f"{child}/artifacts/{file}{plain}", lambda text: "verdict" in text)
        require_not_obeyed(browser)


def servers_of(ui: Ui) -> list[int]:
    """The processes of MLflow that it has started."""
    port = int(ui.server.rpartition(":")[2])
    found = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    servers = [int(line.split()[0]) for line in found.splitlines() if f"--port {port} " in line]
    assert servers
    return servers


def require_gone(servers: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(map(pid_exists, servers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in servers if pid_exists(pid)]


def test_ctrl_c_leaves_nothing(ui: Ui) -> None:
    servers = servers_of(ui)
    assert ui.end() == 0
    require_gone(servers)


@pytest.mark.parametrize("how", [pytest.param("its terminal is closed", marks=pytest.mark.full), "it is killed"])
def test_however_it_ends_nothing_is_left_and_no_module_of_the_current_folder_was_taken(
    tmp_path: Path, how: str
) -> None:
    """A terminal's SIGHUP is ignored, as by all commands, and no Ctrl-C will come."""
    runs = tmp_path / "maths/runs"
    sync(two_rounds(runs / "sample").root)
    for name in ("encodings", "json", "mlflow", "multiprocessing", "uvicorn"):  # it is started in a stranger's run, say
        (runs.parent / f"{name}.py").write_text(f"import posix\nposix.mkdir({str(tmp_path / 'executed')!r})\n")
    ui = Ui(runs)
    servers = servers_of(ui)
    if how == "it is killed":
        ui.process.kill()
        ui.process.wait()
    else:
        ui.process.send_signal(signal.SIGHUP)
        assert ui.process.stdout
        ui.process.stdout.close()
        assert ui.process.wait(60) == 0
    require_gone(servers)
    assert not (tmp_path / "executed").exists()
