"""A page a method: its row is the method's, its paper is named, its job is there."""

from __future__ import annotations

import json
import re

import pytest

from orchestrator.config.methods import PRESETS
from tests.test_house import PROJECT

PAGES = PROJECT / "docs/methods"


def rows_of(settings: object, above: str = "") -> dict[str, str]:
    """Dotted keys with their values as the pages write them."""
    if not isinstance(settings, dict):
        return {above: json.dumps(settings).replace('"', "")}
    below = [rows_of(value, f"{above}.{key}".lstrip(".")) for key, value in settings.items()]
    return {key: value for part in below for key, value in part.items()}


def test_there_is_a_page_for_each_method_and_none_besides() -> None:
    assert {file.stem for file in PAGES.glob("*.md")} == {*PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_a_page_has_the_methods_row_paper_and_job(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text()
    preset = PRESETS[name]
    assert dict(re.findall(r"^\| `([\w.]+)` \| `(.+)` \|$", text, re.M)) == rows_of(dict(preset.settings))
    for paper in re.findall(r"\d{4}\.\d{5}", preset.paper):
        assert f"https://arxiv.org/abs/{paper}" in text
    assert f"`method: {name}`" in text and f"ratchet run jobs/{name}.yaml" in text
    assert (PROJECT / f"jobs/{name}.yaml").is_file()
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings == ["The paper", "The row", "When to use it", "A job", "What it gave here"]
