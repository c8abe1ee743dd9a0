"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many as there are cores, of which each has one
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def private_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's state is not that of whoever runs the tests, nor is it for processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_STATE_HOME", str(tmp_path_factory.mktemp("state", numbered=True)))
        yield
