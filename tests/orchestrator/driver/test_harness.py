"""The extra `harness`, where it is missing: a start is refused with the cure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from orchestrator.commands.validate import check
from orchestrator.config.load import load_job
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput
from tests.support.harness_tasks import CHOICE, ROLLING, make_tasks, needs_harness
from tests.support.stand_ins import make_project

CURE = r"evaluate\.harness: it needs a package .*: pip install 'ratchet-orchestrator\[harness\]'"


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the extra `harness` is installed")
def test_a_missing_package_ends_a_start_and_validate_with_the_cure(tmp_path: Path) -> None:
    file = load_job(make_project(tmp_path, evaluate={"harness": {"tasks": ["gsm8k"]}}))
    with pytest.raises(BadInput, match=CURE):
        RealWorkers(file.job, tmp_path / "run/logs")
    with pytest.raises(BadInput, match=CURE):
        check(file)


@needs_harness
def test_validate_looks_at_the_names_and_imports_nothing(tmp_path: Path) -> None:
    (make_tasks(tmp_path / "own") / "texts.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    names = {"tasks": [CHOICE, ROLLING], "include_path": "own"}
    job = make_project(tmp_path, evaluate={"harness": names})
    RealWorkers(load_job(job).job, tmp_path / "run/logs").harness()
    with pytest.raises(BadInput) as refused:
        check(load_job(job, ["evaluate.harness.tasks=[tiny_choise, mbpp]"]))
    first, second = str(refused.value).splitlines()
    assert first.startswith("evaluate.harness.tasks: tiny_choise: ") and "tiny_choice" in first
    assert second.startswith("evaluate.harness.tasks: mbpp: it executes code")
    assert not (tmp_path / "executed").exists()
