from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.children import Undisturbed, scratch, undisturbed


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for many runs."""
    with scratch(tmp_path_factory.mktemp("faults")) as folder:
        yield folder


@pytest.fixture(scope="module")
def calm(space: Path) -> Undisturbed:
    return undisturbed(space / "calm")
