"""What a step says it was done with half of; the facts may be a stranger's."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.records.executed import halved


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"executed": {"a": 50, "b": 1, "halved": ["a"]}}, {"a": 50}),
        ({"executed": {"a": 50}}, {}),
        ({}, {}),
        ({"executed": {"a": 50, "halved": "a"}}, {}),
        ({"executed": {"a": 50, "halved": [["a"], {}, 3, "none", "a"]}}, {"a": 50}),
    ],
)
def test_what_was_halved_is_found_and_nothing_else(facts: dict[str, Any], said: dict[str, Any]) -> None:
    assert halved(facts) == said
