"""A Ray of the tests' own, with its own temporary folder."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

import ray


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="rp-")  # short: Ray puts sockets there, whose names may have 107 characters
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        _temp_dir=f"{folder}/r",  # Ray opens it to everybody
        object_store_memory=2**27,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
