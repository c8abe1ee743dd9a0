"""A Ray of the tests' own, with its own temporary folder."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

import ray

_STARTS = 3


@contextlib.contextmanager
def local_ray(num_gpus: int = 0) -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="rp-")  # short: Ray puts sockets there, whose names may have 107 characters
    try:
        _start(folder, num_gpus)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: str, num_gpus: int) -> None:
    """Ray gives its processes 30 s to start, which a busy machine can take; so it is tried again, as in a run."""
    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=4,
                num_gpus=num_gpus,
                include_dashboard=False,
                _temp_dir=f"{folder}/r{attempt}",  # Ray opens it to everybody
                object_store_memory=2**27,
                log_to_driver=False,
                logging_level="ERROR",
            )
            return
        except Exception:  # Ray raises plain ones
            ray.shutdown()
            if attempt == _STARTS:
                raise
