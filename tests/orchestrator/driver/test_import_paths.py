"""Where Ray's workers look for modules; with a Ray, in tests/real/test_private_ray_real.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.job_config import JobConfig

from orchestrator.driver.import_paths import job_config

PROJECT = Path(__file__).parents[3]


def test_workers_get_the_projects_folder_and_not_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = job_config(JobConfig)
    assert told._py_driver_sys_path == [str(PROJECT)]
    assert told._runtime_env_has_working_dir(), "else Ray adds the current folder"
