"""The page of several runs in a real browser: charts, filters, and that no text of a run is obeyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.compare.page import document, page
from tests.browser.test_report_page import HOSTILE, click, of, ready
from tests.support.stand_ins import StandIns, make_project, run_job

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of a run's two rounds and its base model, whose texts are hostile."""
    folder: Path = tmp_path_factory.mktemp("compared")
    run_job(make_project(folder, rounds=2), StandIns())
    told = document([f"{folder}/run@round{number}" for number in (0, 1, 2)])
    for number, each in enumerate(told["sides"]):
        each["name"] = f"{HOSTILE}{number}"
    told["sentences"].append(HOSTILE)
    told["settings"] = [{"key": HOSTILE, "values": [HOSTILE, {"a": HOSTILE}, None]}]
    for problem in told["problems"]:
        problem["prompt"] = f"{HOSTILE}{problem['prompt']}"
        for answer in problem["answers"]:
            answer |= {"text": f"{HOSTILE}{answer['text']}", "extracted": HOSTILE, "reason": HOSTILE}
    (file := folder / "page.html").write_bytes(page(told))
    browser.get(file.as_uri())
    ready(browser)
    return browser


def count(browser: Any) -> int:
    return int(of(browser, "#found")[0].text.split()[0])


def choose(browser: Any, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(of(browser, "#f-solved")[0]).select_by_value(value)


def test_nothing_of_a_text_is_obeyed_and_nothing_is_asked_of_a_network(opened: Any) -> None:
    assert opened.execute_script("return window.obeyed") is None
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert not of(opened, "main img") and HOSTILE[:20] in of(opened, "h1")[0].text
    for place in ("#summary", "#setting-table", "#model-table", "#list li"):
        assert "onerror" in of(opened, place)[0].text, "it is shown"


def test_charts_models_and_answers_are_there(opened: Any) -> None:
    assert len(of(opened, "#round-charts figure")) == 6 and len(of(opened, "#model-table tbody tr")) == 3
    assert count(opened) == 16 and len(of(opened, "#list > li")) == 16
    assert len(of(opened, "#list > li:first-child .column")) == 3


def test_filters_find_problems_by_who_solves_them(opened: Any) -> None:
    found = {}
    for value in ("differ", "all", "none", "only0", "only1", "only2", "not0", "not1", "not2"):
        choose(opened, value)
        found[value] = count(opened)
    assert found["differ"] + found["all"] + found["none"] == 16 and found["differ"] > 0
    assert sum(found[f"{kind}{at}"] for kind in ("only", "not") for at in range(3)) == found["differ"]
    click(opened, of(opened, "#clear")[0])
    of(opened, "#f-q")[0].send_keys("test 7?")
    assert count(opened) == 1
    click(opened, of(opened, "#clear")[0])
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert count(opened) == 16


@pytest.mark.parametrize("width", [700, 1280])
def test_nothing_is_wider_than_the_window(opened: Any, width: int) -> None:
    opened.set_window_size(width, 900)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.execute_script(wide) <= 0
