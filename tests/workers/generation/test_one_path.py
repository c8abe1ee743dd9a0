"""One path for all models: right in each process, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.records.model_folder import INDEX
from workers.generation.one_path import PATH, anchored, one_path

HOLD = """
import os, signal, sys
from workers.generation.one_path import PATH, one_path
with one_path(sys.argv[1]):
    print(open(PATH + "/name").read(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (place := tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def model(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    (folder / name / "name").write_text(name)
    return str(folder / name)


def holding(of: str) -> subprocess.Popen[str]:
    """A process that loads a model, and says its name."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, of], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip


def test_processes_that_load_other_models_at_one_moment_do_not_meet(tmp_path: Path, temporary: Path) -> None:
    running = [holding(model(tmp_path, name)) for name in ("first", "second")]
    said = [process.stdout.readline().strip() for process in running if process.stdout]
    assert said == ["first", "second"] and len(os.listdir(temporary)) == 2
    assert [process.communicate() and process.returncode for process in running] == [0, 0]
    assert not os.listdir(temporary)


def test_what_a_killed_process_leaves_goes_with_the_next_and_a_living_ones_stays(
    tmp_path: Path, temporary: Path
) -> None:
    killed, living = (holding(model(tmp_path, name)) for name in ("killed", "living"))
    for process in (killed, living):
        assert process.stdout and process.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (outside := temporary / "ratchet-engine-abcdefgh").symlink_to(tmp_path)
    with one_path(model(tmp_path, "next")):
        assert Path(PATH, "name").read_text() == "next"
        assert len(os.listdir(temporary)) == 3, "of the living one, its own, and a stranger's link"
    assert living.communicate() and living.returncode == 0
    assert os.listdir(temporary) == [outside.name] and (tmp_path / "killed/name").exists()


def test_the_working_directory_is_as_before_also_after_an_error(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(tmp_path, "relative")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="no room"), one_path("relative") as before:
        assert Path(PATH, "name").read_text() == "relative" and before == tmp_path
        raise OSError("no room")
    assert Path.cwd() == tmp_path and not os.listdir(temporary)


def test_relative_paths_of_the_user_lead_to_where_they_did(tmp_path: Path) -> None:
    model(tmp_path, "draft")
    model(tmp_path, "auto")
    given = {"dtype": "auto", "speculative_config": {"model": "./draft"}, "list": ["draft/name", "org/name", 3, None]}
    now = anchored(given, tmp_path)
    assert now == {"dtype": "auto", "speculative_config": {"model": f"{tmp_path}/draft"}} | {
        "list": [f"{tmp_path}/draft/name", "org/name", 3, None]
    }


@pytest.mark.parametrize("index", [False, True])
def test_an_engine_is_shown_the_weights_that_are_trained_alone(tmp_path: Path, index: bool) -> None:
    """Mistral's own layout beside that of Hugging Face, as Mistral publishes its models."""
    folder = Path(model(tmp_path, "both"))
    weights = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"] if index else ["model.safetensors"]
    for name in (*weights, "consolidated.safetensors", "params.json", "config.json"):
        (folder / name).touch()
    if index:
        (folder / INDEX).write_text(json.dumps({"weight_map": {name[:7]: name for name in weights}}))
    with one_path(str(folder)):
        shown = set(os.listdir(PATH))
    assert shown == set(os.listdir(folder)) - {"consolidated.safetensors"}
