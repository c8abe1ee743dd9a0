"""docs/reading-a-run.md explains every figure that a run's page, its report and MLflow show."""

from __future__ import annotations

import re

import pytest

from orchestrator.reports import health, repeated, report, sampled, seconds
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking import projection
from tests.test_house import PROJECT

TEXT = " ".join((PROJECT / "docs/reading-a-run.md").read_text().lower().split())

TABLES = {
    "accuracy": report._ACCURACY,
    "training": report._TRAINING,
    "health": report._HEALTH,
    "promotion": report._PROMOTIONS,
    **{
        section.heading: section.columns
        for section in (sampled.SAMPLES, sampled.WAVES, sampled.TEMPERATURE, repeated.SECTION)
    },
    **{section.heading: section.columns for source in SOURCES.values() for section in source.reported.sections},
}


def missing(heading: str) -> list[str]:
    """The parts of a heading that the page does not have."""
    parts = (part.strip() for part in re.split(r"[,:/%()→]", heading.lower()))
    return [part for part in parts if part and part not in TEXT]


@pytest.mark.parametrize("name", TABLES)
def test_every_column_of_the_report_is_explained(name: str) -> None:
    assert {column.heading: gone for column in TABLES[name] if (gone := missing(column.heading))} == {}
    assert missing(name) == []


def test_every_chart_and_column_of_the_page_is_explained() -> None:
    script = (PROJECT / "orchestrator/reports/page/page.js").read_text()
    titles = re.findall(r"(?:byRound|bars|curves)\(\"([^\"]+)\"", script)
    columns = re.findall(r"^    \[\"([^\"]+)\", \(r\)", script, re.M)
    blocks = re.findall(r"(?:block\(|name: )\"([^\"]+)\"", script)
    assert len(titles) == 8 and len(columns) > 12 and len(blocks) > 5
    assert {text: gone for text in (*titles, *columns, *blocks, *seconds.IDLE) if (gone := missing(text))} == {}
    labels = re.findall(r"<label[^>]*>(?:<input[^>]*>)? ?([A-Z][\w ]+|in a pair|all wrong)", _page())
    assert {text: gone for text in labels if (gone := missing(text))} == {}


def _page() -> str:
    return (PROJECT / "orchestrator/reports/page/page.html").read_text()


def test_every_metric_of_mlflow_is_explained() -> None:
    step = (PROJECT / "workers/numerics/step.py").read_text().partition("MEANS:")[2].partition("\n}")[0]
    means = re.findall(r"^    \"(\w+)\":", step, re.M)
    assert len(means) == 8
    for name in (*means, "grad_norm", "learning_rate", *projection.PARENT_TRAINING):
        assert f"`learning/{name}`" in TEXT, name
    for key in ("gate/won", "gate/lost", "gate/p_value", "accuracy/test", "accuracy/gate", "round/samples_correct"):
        assert f"`{key}`" in TEXT, key
    for section in ("health", "round", "time", "system"):
        assert f"`{section}/" in TEXT, section


def test_every_figure_of_health_is_explained_where_its_page_says() -> None:
    watching = " ".join((PROJECT / "docs/watching.md").read_text().split())
    named = re.findall(r"`([a-z]\w+)`", health.health.__doc__ or "")
    assert len(named) > 10
    for name in named:
        assert f"`{name}`" in watching or f"`_{name.rpartition('_')[2]}`" in watching, name
