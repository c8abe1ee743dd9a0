"""A base model from a Hub: the real `huggingface_hub`, and a small server on this machine in the Hub's place.

Each case runs in a process of its own, since the library reads its settings once, when imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.reports.status import status
from orchestrator.rounds.round import GateStopped
from tests.support.forked import typed
from tests.support.hub_server import COMMIT, MODEL, serve
from tests.support.stand_ins import StandIns, make_project, run_job

pytest.importorskip("huggingface_hub")

TINY = {
    "config.json": b"{}",
    "tokenizer.json": b'{"tokens": []}',
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": json.dumps({"skill": 0.4}).encode(),
    "consolidated.safetensors": b"the same once more",
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"print('code')",
    "README.md": b"words",
    "onnx/config.json": b"{}",
}
KEPT = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
STAND_INS = """
import sys
from pathlib import Path
from tests.support.stand_ins import StandIns, run_job
run_job(Path(sys.argv[1]), StandIns(), *sys.argv[2:])
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def process(home: Path, address: str, *command: object, **settings: str) -> subprocess.CompletedProcess[str]:
    arguments, environment = [sys.executable, *map(str, command)], environment_of(home, address, **settings)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=200)


def environment_of(home: Path, address: str, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return kept | {"HF_ENDPOINT": address, "HF_HOME": str(home), **settings}


def refused(home: Path, address: str, job: Path, **settings: str) -> str:
    """What `ratchet run` says of a model that it does not take; nothing of the run is there afterwards."""
    done = typed(["run", str(job)], environment_of(home, address, **settings), Path.cwd())
    assert done.returncode == 2, done.stderr
    assert not (job.parent / "run" / "ledger").exists()
    assert done.stderr.startswith(f"ratchet: {job}: model: ") and done.stderr.count("\n") == 1
    return done.stderr


def records(root: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in sorted((root / "ledger").glob("*.json"))]
    return [record["data"] for record in found if record["kind"] == kind]


def closed_port() -> str:
    with serve({}) as address:
        return address


def test_a_run_keeps_the_model_of_a_commit_and_resumes_without_the_hub(tmp_path: Path) -> None:
    job, root = make_project(tmp_path, model=f"{MODEL}@v1"), tmp_path / "run"
    with serve({}, TINY) as address:
        first = process(tmp_path / "home", address, "-c", STAND_INS, job, "rounds=1")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "[]\n", "the orchestrator must stay light"
    kept = root / "baseline" / "model"
    assert sorted(file.name for file in kept.iterdir()) == KEPT
    assert all(file.stat().st_nlink == 2 and not file.is_symlink() for file in kept.iterdir())
    blobs = [f.read_bytes() for f in (tmp_path / "home").rglob("*") if f.is_file() and f.parent.name == "blobs"]
    assert TINY["model.safetensors"] in blobs and TINY["pytorch_model.bin"] not in blobs
    step = next(commit for commit in records(root, "commit") if commit["step"] == "baseline/model")
    assert {key: step["facts"][key] for key in ("id", "revision")} == {"id": MODEL, "revision": COMMIT}
    assert records(root, "config")[0]["model"] == "baseline/model"
    # No server, and no cache.
    shutil.rmtree(tmp_path / "home")
    second = process(tmp_path / "other", closed_port(), "-c", STAND_INS, job)
    assert second.returncode == 0, second.stderr
    assert (root / "CURRENT").read_text() == "rounds/02/checkpoint\n"


@pytest.mark.full
def test_a_branch_in_the_cache_serves_offline_runs(tmp_path: Path) -> None:
    job = make_project(tmp_path, model=MODEL)
    with serve({}, TINY) as address:
        said = refused(tmp_path, address, job, HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE is set while the Hub's cache has no complete copy" in said
        checked = process(tmp_path, address, "-m", "orchestrator", "validate", job)
        assert f"model     {MODEL} at commit {COMMIT}\n" in checked.stdout
        assert "no complete copy" in refused(tmp_path, address, job, HF_HUB_OFFLINE="1")  # no weights yet
        assert process(tmp_path, address, "-c", STAND_INS, job, "rounds=1").returncode == 0
    shutil.rmtree(tmp_path / "run")
    offline = process(tmp_path, address, "-c", STAND_INS, job, "rounds=1", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert records(tmp_path / "run", "commit")[0]["facts"]["revision"] == COMMIT


@pytest.mark.parametrize(
    ("model", "files", "said"),
    [
        (f"{MODEL}@v9", TINY, "'someone/tiny@v9': there is no such folder, and the Hub has no such model or revision"),
        ("someone/else", TINY, "no such model or revision (RepositoryNotFoundError"),
        (MODEL, {"config.json": b"{}", "pytorch_model.bin": b""}, "someone/tiny has no *.safetensors file"),
        (MODEL, {"model.safetensors": b""}, "it has no config.json"),
        (MODEL, {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"?"}, "is no safetensors file"),
    ],
)
def test_what_the_hub_does_not_have(tmp_path: Path, model: str, files: dict[str, bytes], said: str) -> None:
    with serve({}, files) as address:
        assert said in refused(tmp_path, address, make_project(tmp_path, model=model))


def test_a_hub_that_cannot_be_reached_and_a_model_that_is_not_shown(tmp_path: Path) -> None:
    job = make_project(tmp_path, model=MODEL)
    said = refused(tmp_path, closed_port(), job)
    assert "the Hub does not deliver (ConnectError" in said
    assert said.endswith("give a folder, or set HF_HUB_OFFLINE=1 where the Hub's cache has a copy.\n")
    with serve({}, TINY, gated=True) as address:
        assert "set HF_TOKEN to a token that may read it" in refused(tmp_path, address, job)


DOCTOR = """
import sys
from pathlib import Path
from tests.orchestrator.commands.test_doctor import examined
print(examined(Path(sys.argv[1]), "model=someone/tiny", limit=3.0)[1]["model and data"].text)
"""


def test_doctor_examines_the_files_that_a_run_would_keep(tmp_path: Path) -> None:
    with serve({}, TINY) as address:
        done = process(tmp_path / "home", address, "-c", DOCTOR, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/runs/.doctor-" in done.stdout and "seen from the driver and 1 node" in done.stdout


def test_a_model_in_rays_copy_of_the_project_is_kept(tmp_path: Path) -> None:
    packages, root = tmp_path / "runtime_resources" / "working_dir_files", tmp_path / "run"
    for name in ("first", "second"):
        (packages / name).mkdir(parents=True)
        job = make_project(packages / name, run_dir=str(root))
        if name == "first":
            with pytest.raises(GateStopped):
                run_job(job, StandIns(gain=-0.4))
            shutil.rmtree(packages / name)
    assert (root / "CURRENT").read_text() == "baseline/model\n"
    assert records(root, "promotion")[0]["reference"] == "baseline/model"
    assert status(root)["reference"] == str(root / "baseline" / "model")
    assert "working_dir_files" not in json.dumps(records(root, "config")[0]["model"])
    shutil.rmtree(packages / "second" / "seed")  # nobody asks for it
    with pytest.raises(GateStopped):
        run_job(job, StandIns(gain=-0.4))


def test_an_ordinary_folder_stays_where_it_is(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns(), "rounds=1")
    assert not (tmp_path / "run" / "baseline" / "model").exists()
    assert records(tmp_path / "run", "config")[0]["model"] == str(tmp_path / "seed")
