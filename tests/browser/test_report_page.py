"""report.html in a real browser: what it shows, how one finds a sample in it, and that no text of a run is obeyed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from orchestrator.reports.page.page import document, page
from orchestrator.sources.registry import SOURCES
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, make_project, run_job

pytestmark = pytest.mark.browser

HOSTILE = '</script><script>window.obeyed=1</script><img src=x onerror="window.obeyed=1"><a href="javascript:obeyed=1">'


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of a run whose texts are hostile."""
    folder: Path = tmp_path_factory.mktemp("page")
    run_job(make_project(folder, rounds=2, evaluate={"harness": {"tasks": ["one"]}}), StandIns())
    told = document(folder / "run", SOURCES)
    place = list(told["answers"]["columns"]).index("text")
    for row in told["answers"]["samples"]:
        row[place] = f"{HOSTILE}{row[place]}"
    for problem in told["answers"]["problems"]:
        problem.update({"prompt": HOSTILE}) if isinstance(problem, dict) else None
    told["figures"]["name"] = HOSTILE
    told["figures"]["harness"]["rows"][0][0] = HOSTILE
    (file := folder / "page.html").write_bytes(page(told))
    browser.get(file.as_uri())
    ready(browser)
    return browser


def ready(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.body.dataset.ready") == "true")


def of(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def click(browser: Any, element: Any) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def count(browser: Any) -> int:
    return int(of(browser, "#found")[0].text.split()[0])


def test_nothing_of_a_text_is_obeyed_and_nothing_is_asked_of_a_network(opened: Any) -> None:
    assert opened.execute_script("return window.obeyed") is None
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert not of(opened, "main img") and HOSTILE[:20] in of(opened, "h1")[0].text
    assert "onerror" in of(opened, "#list li")[0].text, "it is shown"


def test_charts_and_tables_are_there(opened: Any) -> None:
    assert len(of(opened, "#round-charts figure")) == 4 and len(of(opened, "#round-table tbody tr")) == 3
    assert "promoted" in of(opened, "#gate-words")[0].text and "pass@1" in of(opened, "#by-round")[0].text
    assert of(opened, "#summary p")


def test_tasks_of_a_harness_have_a_table(opened: Any) -> None:
    assert [head.text for head in of(opened, "#harness th")][:4] == ["figure", "base", "round 1", "round 2"]
    assert of(opened, "#harness td")[-1].text == "0.5000", "a figure without an error"
    assert of(opened, "#harness")[0].text.count("They decide nothing") == 1 and not of(opened, "#harness li")


def test_filters_find_and_the_address_keeps_them(opened: Any) -> None:
    assert count(opened) == 160
    opened.execute_script("location.hash = 'round=2&split=train&verdict=wrong'")
    opened.execute_script("dispatchEvent(new HashChangeEvent('hashchange'))")
    wrong = count(opened)
    assert 0 < wrong < 32
    opened.refresh()
    ready(opened)
    assert count(opened) == wrong
    click(opened, of(opened, "#clear")[0])
    assert count(opened) == 160
    click(opened, of(opened, "#f-paired")[0])
    assert 0 < count(opened) < 160
    click(opened, of(opened, "#clear")[0])


def test_a_sample_opens_its_problem_and_a_pair_leads_back(opened: Any) -> None:
    opened.execute_script("location.hash = 'split=train&paired=1'")
    opened.execute_script("dispatchEvent(new HashChangeEvent('hashchange'))")
    click(opened, of(opened, "#list li button")[0])
    assert of(opened, "#detail .column") and of(opened, "#detail .card.current")
    click(opened, of(opened, "#detail .pairs a")[0])
    assert [head.text for head in of(opened, "#detail h4")] == ["chosen", "rejected"]
    [link] = [a for a in of(opened, "#detail a") if a.text.startswith("to sample")][:1]
    click(opened, link)
    assert of(opened, "#detail .card.current")


@pytest.mark.parametrize("asked", ["problem=a'b; touch /x&in=gate", "pair=$(touch /x)&of=1;x"])
def test_a_command_that_is_shown_runs_nothing_that_an_id_says(opened: Any, asked: str) -> None:
    """It is copied into a shell; ids are of somebody's data, or of an address that somebody sent."""
    opened.execute_script("location.hash = arguments[0]; dispatchEvent(new HashChangeEvent('hashchange'))", asked)
    [command] = [code.text for code in of(opened, "#detail code") if code.text.startswith("ratchet inspect")]
    ids = [part.partition("=")[2] for part in asked.split("&")]
    assert shlex.split(command)[-1].partition("=")[2] == ids[0]
    assert shlex.split(command)[-2] in ("run", ids[1])


def test_keys(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("location.hash = ''; dispatchEvent(new HashChangeEvent('hashchange'))")
    body = of(opened, "body")[0]
    body.send_keys("j")
    first = opened.execute_script("return location.hash")
    body.send_keys("j")
    assert opened.execute_script("return location.hash") != first != ""
    body.send_keys("/")
    assert opened.execute_script("return document.activeElement.id") == "f-q"
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert opened.execute_script("return document.activeElement.id") != "f-q"


def test_figures_are_rounded_as_in_the_terminal_and_counts_have_whole_steps(opened: Any) -> None:
    shares = [0.8125, 0.4375, 0.0625, 0.125, 1 / 3]  # of which some lie between two figures
    assert opened.execute_script(f"return {shares}.map(percent)") == [f"{100 * share:.1f} %" for share in shares]
    series = '[{name: "won", colour: "good", block: true, values: new Map([[1, 1]])}]'
    ticks = f'[...bars("Won", "", [1], {series}).querySelectorAll(".tick.end")].map((each) => each.textContent)'
    assert opened.execute_script(f"return {ticks}") == ["0", "1"]


@pytest.mark.parametrize("width", [700, 1280])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    opened.set_window_size(width, 900)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.execute_script(wide) <= 0


@pytest.mark.parametrize("end", ["failed", None])
def test_a_run_that_has_nothing_says_so_and_why(browser: Any, tmp_path: Path, end: str | None) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    if end:
        run.end(end, f"the disk is full {HOSTILE}")
    (file := tmp_path / "page.html").write_bytes(page(document(run.root, SOURCES)))
    browser.get(file.as_uri())
    ready(browser)
    seen = of(browser, "body")[0].text
    assert "Why: the disk is full </script>" in seen if end else "Why: its driver died without a word" in seen
    assert "No round has begun yet." in seen and "There are no samples and answers yet." in seen
    assert "ungradable counts" in seen and "Grading is hidden" not in seen and "Ungradable since" not in seen
    assert browser.execute_script("return window.obeyed") is None
