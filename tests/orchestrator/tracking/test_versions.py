"""Checkpoints as versions in a real MLflow: their aliases, what they say of loading, and what becomes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import CLEANING
from orchestrator.tracking.tracker import default_address, sync
from tests.support.sample_run import SampleRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maths")


def client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_address(folder), registry_uri=default_address(folder))


def three_rounds(root: Path) -> SampleRun:
    """Of which the first and the second were promoted, the first is the best, and the third was refused."""
    run = SampleRun(root, name=root.name, rounds=3)
    run.claim()
    run.configure()
    run.baseline()
    for number, correct in ((1, 80), (2, 79), (3, 40)):
        run.prompts(number)
        run.train(number)
        run.evaluate(number, correct)
        reference = f"rounds/{min(number, 2):02d}/checkpoint"
        run.promote(number, promoted=number < 3, reference=reference, best="rounds/01/checkpoint")
    run.end()
    return run


def aliases(folder: Path, name: str) -> dict[str, str]:
    """The round that each alias points to."""
    mlflow = client(folder)
    found = mlflow.get_registered_model(name).aliases
    return {alias: mlflow.get_model_version(name, number).tags["ratchet.round"] for alias, number in found.items()}


def model_of(mlflow: Any, name: str, version: str) -> Any:
    """The logged model of a version, by the tag that leads back to it."""
    experiments = [e.experiment_id for e in mlflow.search_experiments()]
    listed = json.dumps([{"name": name, "version": int(version)}])
    [found] = [m for m in mlflow.search_logged_models(experiments) if m.tags.get("mlflow.modelVersions") == listed]
    return found


def test_aliases_metrics_and_words(folder: Path) -> None:
    run = three_rounds(folder / "words")
    for _ in range(2):
        sync(run.root)
        assert aliases(folder, "words") == {"candidate": "3", "champion": "1", "reference": "2"}
        (run.root / "tracking.json").unlink()
    mlflow = client(folder)
    versions = mlflow.search_model_versions("name = 'words'")
    assert len(versions) == 3
    by_round = {version.tags["ratchet.round"]: version for version in versions}
    assert {number: v.tags["promoted"] for number, v in by_round.items()} == {"1": "yes", "2": "yes", "3": "no"}
    model = model_of(mlflow, "words", by_round["2"].version)
    assert by_round["2"].tags["accuracy/test"] == "0.7900"
    metrics = {metric.key: metric.value for metric in model.metrics}
    assert metrics["accuracy/test"] == 0.79 and metrics["gate/won"] == 12.0
    assert len(model.metrics) == len(metrics), "each once"
    assert "test 79.0 %" in by_round["2"].description and "refused: " in by_round["3"].description
    assert f"folder = '{run.root}/rounds/02/checkpoint'" in by_round["2"].description


def test_the_address_of_a_version_is_a_folder_that_says_how_to_load_it(folder: Path, tmp_path: Path) -> None:
    run = three_rounds(folder / "load")
    sync(run.root)
    mlflow = client(folder)
    version = mlflow.get_model_version_by_alias("load", "reference")
    source = Path(mlflow.get_model_version_download_uri("load", version.version).removeprefix("file://"))
    [said] = list(source.iterdir())
    assert said.name == "how-to-load.md"
    assert f"folder = '{run.root}/rounds/02/checkpoint'" in said.read_text()
    assert "cannot load this version" in said.read_text()


@pytest.mark.parametrize("by", ["discard", "gc"])
def test_a_checkpoint_that_was_removed_is_marked(folder: Path, by: str) -> None:
    run = three_rounds(folder / by)
    sync(run.root)
    gone = {"paths": ["rounds/01/checkpoint"]}
    if by == "gc":
        run.ledger.claim({"host": "elsewhere", "pid": 1} | CLEANING | gone)
    else:
        run.claim()
        run.ledger.append("discard", gone)
    sync(run.root)
    versions = {v.tags["ratchet.round"]: v for v in client(folder).search_model_versions(f"name = '{by}'")}
    assert {number: v.tags["ratchet.removed"] for number, v in versions.items()} == {"1": "yes", "2": "no", "3": "no"}
    assert "cannot be loaded" in versions["1"].description and "from_pretrained" not in versions["1"].description


def test_aliases_go_back_with_a_rollback(folder: Path) -> None:
    run = three_rounds(folder / "back")
    sync(run.root)
    run.claim()
    data = {"round": 1, "before": "rounds/02/checkpoint", "rounds": [2, 3]}
    run.ledger.append("rollback", data)  # type: ignore[arg-type]
    for _ in range(2):  # also where all is told from the beginning
        sync(run.root)
        assert aliases(folder, "back") == {"candidate": "1", "champion": "1", "reference": "1"}
        (run.root / "tracking.json").unlink()
    versions = {v.tags["ratchet.round"]: v for v in client(folder).search_model_versions("name = 'back'")}
    assert {number: v.tags["ratchet.removed"] for number, v in versions.items()} == {"1": "no", "2": "yes", "3": "yes"}
    assert "ratchet rollback" in versions["2"].description


def test_paths_follow_a_run_that_was_moved(folder: Path) -> None:
    run = three_rounds(folder / "moved")
    sync(run.root)
    there = folder / "there"
    shutil.move(run.root, there)
    sync(there)
    versions = client(folder).search_model_versions("name = 'moved'")
    assert len(versions) == 3
    for version in versions:
        checkpoint = f"{there}/rounds/0{version.tags['ratchet.round']}/checkpoint"
        assert version.tags["ratchet.checkpoint"] == checkpoint and checkpoint in version.description
        model = model_of(client(folder), "moved", version.version)
        source = Path(model.artifact_location.removeprefix("file://"))
        assert checkpoint in (source / "how-to-load.md").read_text()
