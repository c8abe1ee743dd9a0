"""deploy/grafana: the dashboard asks for what a run emits, all of it, and Prometheus takes its configuration."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.reports.meters import METERS, PREFIX
from tests.deploy.tools import DEPLOY, PROJECT, said, tool

FOLDER = DEPLOY / "grafana"
NAMED = re.compile(r"\b(?:ray_)?ratchet_\w+")
LABELS = re.compile(r"\{([^{}]*)\}|\bby \(([^()]*)\)")
LEGEND = re.compile(r"\{\{(\w+)\}\}")
KINDS = {"stat", "timeseries", "bargauge"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found = json.loads((FOLDER / "ratchet.json").read_text())
    assert isinstance(found, dict)
    return found


def queries(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Each panel's expressions, with how their series are called."""
    return [(t["expr"], t["legendFormat"]) for panel in dashboard["panels"] for t in panel["targets"]]


def test_it_asks_for_every_metric_and_for_no_other(dashboard: dict[str, Any]) -> None:
    asked = {name for expression, _ in queries(dashboard) for name in NAMED.findall(expression)}
    assert asked == {meter.exported for meter in METERS}
    assert set(NAMED.findall(json.dumps(dashboard))) == asked


def test_it_asks_by_labels_that_they_have(dashboard: dict[str, Any]) -> None:
    tags = {meter.exported: {"run", *meter.tags} for meter in METERS}
    for expression, legend in queries(dashboard):
        [name] = NAMED.findall(expression)
        listed = [part for found in LABELS.findall(expression) for part in "".join(found).split(",")]
        used = {part.split("=")[0].strip(" ~") for part in listed}
        assert used and used <= tags[name], expression
        assert set(LEGEND.findall(legend)) <= {
            part.strip() for part in re.findall(r"by \((.*?)\)", expression)[0].split(",")
        }
        assert 'run=~"$run"' in expression


def test_it_is_one_that_grafana_can_show(dashboard: dict[str, Any]) -> None:
    assert dashboard["uid"] == "ratchet" and dashboard["schemaVersion"] >= 39
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in KINDS and panel["description"].endswith(".")
        place = panel["gridPos"]
        cells = itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
        mine = set(cells)
        assert not mine & taken and max(x for x, _ in mine) < 24
        taken |= mine
        for target in (panel, *panel["targets"]):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "run"]


def test_the_configuration_is_one_that_prometheus_takes() -> None:
    file = FOLDER / "prometheus.yaml"
    code, text = said(tool("promtool"), "check", "config", file)
    assert code == 0, text
    code, text = said(tool("promtool"), "check", "config", PROJECT / "pyproject.toml")
    assert code != 0


def test_the_port_is_the_same_wherever_it_is_named() -> None:
    """In the configuration and on the pages."""
    [job] = [
        job
        for job in yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
        if job["job_name"] == "ratchet"
    ]
    [target] = job["static_configs"][0]["targets"]
    texts = [(FOLDER / "prometheus.yaml").read_text(), (FOLDER / "README.md").read_text()]
    ports = [re.findall(r"RATCHET_METRICS_PORT=(\d+)", text) for text in texts]
    assert all(ports) and {port for found in ports for port in found} == {target.rpartition(":")[2]}


def test_the_page_names_every_metric_with_its_labels() -> None:
    text = (FOLDER / "README.md").read_text()
    for meter in METERS:
        assert re.search(rf"^\| `{meter.exported}` \| {', '.join(f'`{tag}`' for tag in meter.tags)} \|", text, re.M), (
            meter
        )
    assert set(re.findall(rf"{PREFIX}ratchet_\w+", text)) == {meter.exported for meter in METERS}
    assert Path("ratchet.json").name in text
