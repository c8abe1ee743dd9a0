from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.children import Case, Undisturbed, finish, running, scratch, undisturbed, wait_for
from tests.faults.jobs import KINDS, SAMPLE


class Shelf:
    """Runs that are made once, by source, for tests to compare with or to copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calm = functools.cache(self._calm)
        self.half = functools.cache(self._half)

    def folder(self) -> Path:
        """A new one, for what other modules make once."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _calm(self, source: str) -> Undisturbed:
        return undisturbed(self.folder(), KINDS[source])

    def _half(self, source: str) -> Path:
        calm = self.calm(source)
        case = calm.case(self.folder(), wait_at=calm.kind.half)
        with running(case) as driver:
            wait_for(case.waiting, driver)
            driver.kill()
            finish(driver)
        return case.run


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with scratch(tmp_path_factory.mktemp("shelf")) as folder:
        yield Shelf(folder)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Path]:
    """A folder for many runs."""
    with scratch(tmp_path) as folder:
        yield folder


@pytest.fixture
def source() -> str:
    """The job that faults are tried on. Tests of several sources are parametrised with it."""
    return SAMPLE


@pytest.fixture
def calm(shelf: Shelf, source: str) -> Undisturbed:
    return shelf.calm(source)


@pytest.fixture
def half(shelf: Shelf, source: str) -> Path:
    """A run folder whose driver was killed in the middle of its second round."""
    return shelf.half(source)


@pytest.fixture
def case(calm: Undisturbed, half: Path, space: Path) -> Case:
    """A copy of it, to be harmed and resumed."""
    case = calm.case(space / "case")
    shutil.copytree(half, case.run)
    return case
