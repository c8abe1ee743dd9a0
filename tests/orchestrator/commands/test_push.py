"""`ratchet export --push`: what a Hub holds in the end, in one commit; and what is said where it takes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.commands.export.push import push as push_now
from orchestrator.errors import BadInput
from tests.support.forked import typed
from tests.support.hub_uploads import Repository, UploadHub
from tests.support.stand_ins import StandIns, make_project, run_job

COMMIT, BATCH = "POST api/models/someone/tiny/commit/main", "POST someone/tiny.git/info/lfs/objects/batch"
TOKEN = "hf_0123456789abcdefghijklmnopqrstuvwx"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run_job(make_project(folder, rounds=2), StandIns())
    return folder / "run"


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    with UploadHub(TOKEN) as served:
        yield served


Push = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def push(tmp_path: Path) -> Push:
    """Types the command, in a folder and with a home of its own; `HF_...` are put into its environment."""

    def pushed(*words: object, hub: UploadHub, **environment: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "here").mkdir(exist_ok=True)
        own = {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        done = typed(["export", *map(str, words), "--push"], ours | own | environment, tmp_path / "here")
        assert "Traceback" not in done.stderr and TOKEN not in done.stdout + done.stderr, done.stderr
        assert os.listdir(tmp_path / "here") == [], "what was sent is removed"
        return done

    return pushed


def held(hub: UploadHub, kind: str = "models") -> Repository:
    return hub.repositories[kind, "someone/tiny"]


def test_a_checkpoint_is_pushed_whole_and_private_in_one_commit(made: Path, hub: UploadHub, push: Push) -> None:
    done = push(made, "someone/tiny", hub=hub)
    assert done.returncode == 0, done.stderr
    repository, checkpoint = held(hub), made / "rounds/02/checkpoint"
    assert repository.private and len(repository.commits) == 2
    assert repository.commits[-1][1] == "round 2 of tiny, by Ratchet"
    expected = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert {name: repository.files[name] for name in expected} == expected
    assert repository.files.keys() - expected.keys() == {"README.md", "ratchet.json"}
    assert repository.large == {"model.safetensors"}
    card = repository.files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["ratchet", "irpo"]
    assert done.stdout.startswith(f"pushed    round 2 of tiny to {hub.address}/someone/tiny (private), commit ")
    assert repository.commits[-1][0] in done.stdout
    again = push(f"{made}@round1", "someone/tiny", hub=hub)
    assert again.returncode == 0 and len(repository.commits) == 3
    first = (made / "rounds/01/checkpoint/model.safetensors").read_bytes()
    assert repository.files["model.safetensors"] == first


def test_pairs_are_a_data_set_of_the_hub(made: Path, hub: UploadHub, push: Push) -> None:
    done = push(made, "someone/tiny", "--pairs", "--public", hub=hub)
    assert done.returncode == 0 and "(public)" in done.stdout, done.stderr
    repository = held(hub, "datasets")
    assert not repository.private and repository.large == {"data/round-01.parquet", "data/round-02.parquet"}
    assert repository.files["data/round-01.parquet"] == (made / "rounds/01/pairs/00000.parquet").read_bytes()
    assert push(f"{made}@round2", "someone/tiny", "--pairs", "--public", hub=hub).returncode == 0
    assert "data/round-01.parquet" not in repository.files, "of another push, and no part of this data set"


def test_what_of_others_is_there_stays_and_old_weights_go(made: Path, hub: UploadHub, push: Push) -> None:
    files = {"LICENSE": b"mine", "model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}"}
    hub.repositories["models", "someone/tiny"] = Repository(True, files)
    assert push(made, "someone/tiny", hub=hub).returncode == 0
    assert held(hub).files.keys() == {"LICENSE", "README.md", "ratchet.json", "config.json", "model.safetensors"}
    assert len(held(hub).commits) == 2, "in the same commit"


def test_a_public_repository_is_not_pushed_to_by_mistake(made: Path, hub: UploadHub, push: Push) -> None:
    hub.repositories["models", "someone/tiny"] = Repository(private=False)
    done = push(made, "someone/tiny", hub=hub)
    assert done.returncode == 2 and "there and public" in done.stderr and not held(hub).files
    assert push(made, "someone/tiny", "--public", hub=hub).returncode == 0 and held(hub).files


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["someone/tiny"], {"HF_TOKEN": ""}, "there is no token for "),
        (["someone/tiny"], {"HF_TOKEN": "hf_wrong"}, "does not know the token"),
        (["elsewhere/tiny"], {}, "the token may not write there"),
        (["someone/tiny@v1"], {}, "name a repository as ORG/NAME"),
        (["tiny"], {}, "name a repository as ORG/NAME"),
        (["someone/tiny"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_mistakes_have_one_message(
    made: Path, hub: UploadHub, push: Push, words: list[str], environment: dict[str, str], said: str
) -> None:
    done = push(made, *words, hub=hub, **environment)
    assert done.returncode == 2 and said in done.stderr and not hub.repositories, done.stderr


def test_a_token_that_was_logged_in_with_is_found(made: Path, hub: UploadHub, push: Push, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text(TOKEN)
    assert push(made, "someone/tiny", hub=hub, HF_TOKEN="").returncode == 0 and held(hub).files


@pytest.mark.parametrize(
    ("at", "status"),
    [
        (COMMIT, 500),
        (COMMIT, 412),
        (COMMIT, -1),
        (BATCH, 403),
        pytest.param(BATCH, -1, marks=pytest.mark.full),  # which huggingface_hub tries again for half a minute
    ],
)
def test_what_breaks_off_leaves_nothing_and_the_same_command_goes_on(
    made: Path, push: Push, status: int, at: str
) -> None:
    broken = [True]

    def fail(method: str, path: str) -> int:
        return status if broken[0] and f"{method} {path}" == at else 0

    with UploadHub(TOKEN, fail) as hub:
        done = push(made, "someone/tiny", hub=hub)
        assert done.returncode in (1, 2) and "Nothing is published" in done.stderr, done.stderr
        assert "pushed" not in done.stdout and not held(hub).files and len(held(hub).commits) == 1
        broken[0] = False
        assert push(made, "someone/tiny", hub=hub).returncode == 0 and held(hub).files


def test_a_commit_whose_answer_is_lost_is_found(made: Path, push: Push) -> None:
    with UploadHub(TOKEN, lambda method, path: -2 if f"{method} {path}" == COMMIT else 0) as hub:
        done = push(made, "someone/tiny", hub=hub)
        assert done.returncode == 0 and held(hub).commits[-1][0] in done.stdout, done.stderr


def test_a_hub_that_is_gone_is_named(made: Path, hub: UploadHub, push: Push) -> None:
    done = push(made, "someone/tiny", hub=hub, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "http://127.0.0.1:9 does not answer" in done.stderr


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [("http://me:secret-word@127.0.0.1:1", 1, "http://127.0.0.1:1 does not answer"), ("http://[::1", 2, "HF_ENDPOINT")],
)
def test_an_address_with_a_password_or_that_is_none_is_told_without_it(
    made: Path, hub: UploadHub, push: Push, address: str, code: int, said: str
) -> None:
    done = push(made, "someone/tiny", hub=hub, HF_ENDPOINT=address)
    assert done.returncode == code and said in done.stderr
    done = push(made, "someone/tiny", hub=hub, HF_ENDPOINT=address, HF_TOKEN="")
    assert done.returncode == 2 and "secret-word" not in done.stderr


def test_bytes_that_arrive_otherwise_are_not_called_pushed(made: Path, push: Push) -> None:
    def spoil(_: str, path: str) -> int:
        if "/paths-info/" in path:
            held(hub).files["config.json"] = b"other"
        return 0

    with UploadHub(TOKEN, spoil) as hub:
        done = push(made, "someone/tiny", hub=hub)
        assert done.returncode == 1 and "has not the bytes that were sent for config.json" in done.stderr


def test_only_what_is_pushed_can_be_public(made: Path, tmp_path: Path) -> None:
    from tests.orchestrator.test_cli import ratchet

    assert ratchet("export", made, tmp_path / "away", "--public") == 2


def test_nothing_is_made_in_a_run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "other/rounds"
    shutil.copytree(made, here.parent)
    before = sorted(here.rglob("*"))
    monkeypatch.chdir(here)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(BadInput, match=f"the current folder, which lies in the run {here.parent}: go to another"):
        push_now(str(made), "someone/tiny")
    assert sorted(here.rglob("*")) == before
