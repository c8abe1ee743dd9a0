from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.children import Case, Undisturbed, finish, running, scratch, undisturbed, wait_for
from tests.faults.jobs import KINDS, SAMPLE


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for many runs."""
    with scratch(tmp_path_factory.mktemp("faults")) as folder:
        yield folder


@pytest.fixture(scope="module")
def source() -> str:
    """The job that faults are tried on. Tests of several sources are parametrised with it."""
    return SAMPLE


@pytest.fixture(scope="module")
def calm(space: Path, source: str) -> Undisturbed:
    return undisturbed(Path(tempfile.mkdtemp(dir=space)), KINDS[source])


@pytest.fixture(scope="module")
def half(calm: Undisturbed, space: Path) -> Path:
    """A run folder whose driver was killed in the middle of its second round."""
    case = calm.case(Path(tempfile.mkdtemp(dir=space)), wait_at=calm.kind.half)
    with running(case) as driver:
        wait_for(case.waiting, driver)
        driver.kill()
        finish(driver)
    return case.run


@pytest.fixture
def case(calm: Undisturbed, half: Path, space: Path) -> Case:
    """A copy of it, to be harmed and resumed."""
    case = calm.case(Path(tempfile.mkdtemp(dir=space)))
    shutil.copytree(half, case.run)
    return case
