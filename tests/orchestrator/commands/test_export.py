"""`ratchet export`: what is taken away is what was committed, shares nothing with the run, and says what it is from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.export.command import export_model, export_pairs
from orchestrator.commands.export.names import Names
from orchestrator.driver.trust import KEYS, OUTSIDE
from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.ledger.ledger import Commit, Ledger
from orchestrator.records.parquet import read_table
from orchestrator.reports.page.figures import figures
from orchestrator.sources.registry import SOURCES
from tests.orchestrator.test_cli import ratchet
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, make_model, make_project, run_job
from tests.support.strangers_text import EVIL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run_job(make_project(folder, rounds=2), StandIns())
    return folder / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def front_matter(card: Path) -> dict[str, object]:
    _, head, _ = card.read_text().split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_a_checkpoint_and_where_it_is_from(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("export", made, tmp_path / "away") == 0
    assert capsys.readouterr().out.startswith(f"exported  round 2 of tiny to {tmp_path / 'away'}: 4 files")
    found, expected = contents(tmp_path / "away"), contents(made / "rounds/02/checkpoint")
    assert {name: found.pop(name) for name in expected} == expected
    assert found.keys() == {"README.md", "ratchet.json"}
    said = json.loads(found["ratchet.json"])
    assert (said["run"], said["round"], [each["round"] for each in said["lineage"]]) == ("tiny", 2, [1, 2])
    assert said["prompt"]["template"] == "{question}\n" and said["decoding"]["evaluation"]["temperature"] == 0
    assert front_matter(tmp_path / "away/README.md")["tags"] == ["ratchet", "irpo"]
    assert str(made.parent).encode() not in found["ratchet.json"] + found["README.md"], "no path of this machine"
    ratchet("export", f"{made}@round1", tmp_path / "first")
    first = made / "rounds/01/checkpoint/model.safetensors"
    assert (tmp_path / "first/model.safetensors").read_bytes() == first.read_bytes()


def a_run_of_paths(folder: Path, home: str) -> Path:
    """A run whose job names all by paths that begin with `home`, from its own folder on or absolute."""
    place = folder / home
    place.mkdir(parents=True)
    make_project(place)
    make_model(place / "reference", 0.3)
    files = {split: f"{home}/{split}.jsonl" for split in ("train", "gate", "test")}
    data = files | {"tests": [{"name": "more", "path": f"{home}/more.jsonl"}]}
    rows = ({"id": f"more-{n}", "question": f"more {n}?", "answer": str(n)} for n in range(4))
    (place / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = {"chat_template": f"{home}/train.jsonl", "limits": [{"logs": f"{home}/deep/logs"}]}
    generate = {"samples": 4, "max_tokens": 8, "shard_prompts": 4, "engine": engine}
    changes: dict[str, Any] = {"model": f"{home}/seed", "reference": f"{home}/reference", "generate": generate}
    run_job(make_project(folder, rounds=1, data=data, promotion={"rule": "always"}, **changes), StandIns())
    return folder / "run"


@pytest.mark.parametrize("home", ["{tmp}/secret", "./secret", "secret", "client/secret", "../job/secret"])
def test_no_path_of_a_job_is_in_a_card(tmp_path: Path, home: str) -> None:
    """Each setting that can be a path is one, also one that could be an id of the Hub, and the copy has its last part
    alone."""
    away = tmp_path / "away"
    run = a_run_of_paths(tmp_path / "job", home.format(tmp=tmp_path))
    export_model(str(run), away)
    export_pairs(str(run), tmp_path / "pairs")
    for card in (away / "ratchet.json", away / "README.md", tmp_path / "pairs/README.md"):
        assert "secret" not in card.read_text() and str(tmp_path) not in card.read_text(), card
    said = json.loads((away / "ratchet.json").read_text())
    assert said["lineage"][0]["reference"] == "reference" and said["base_model"]["name"] == "seed"
    said = said["job"]
    assert said["data"]["tests"][0]["path"] == "more.jsonl" and said["reference"] == "reference"
    assert said["generate"]["engine"] == {"chat_template": "train.jsonl", "limits": [{"logs": "logs"}]}


def named_by_sections(model: str, file: str) -> dict[str, object]:
    """Sections of a job, as a run records them, that name models and files."""
    return {
        "reward": {"models": [{"model": model}, {"model": file}]},
        "steps": {"verdicts": file, "process": {"model": model}},
        "stages": {"sources": [{"path": file}, {"path": "", "hub": "org/pairs"}]},
        "evaluate": {"harness": {"tasks": ["a/b"], "include_path": file}},
    }


def test_each_path_that_a_job_can_have_is_a_name(made: Path) -> None:
    """Those of sections that this run does not have, too: as trust knows them."""
    state = Ledger(made / "ledger").state
    job = state.configs[-1]["job"]
    job |= named_by_sections("secret/model", "secret/file") | {"model": "run:secret/other@round2"}
    said = Names(state).published()
    assert "secret" not in json.dumps(said) and said["model"] == "run:other@round2"
    assert said["stages"]["sources"][1]["hub"] == "org/pairs" and said["evaluate"]["harness"]["tasks"] == ["a/b"]
    tried = {"model", "reference", "data.train.path", "data.gate.path", "data.test.path", "data.tests"}
    tried |= {"reward.models", "steps.process.model", "steps.verdicts", "stages.sources"}
    assert tried == {key for key, why in KEYS.items() if why == OUTSIDE}


def test_an_id_of_the_hub_stays(made: Path) -> None:
    """What the run has kept from there; nothing but that tells it from a folder of this name."""
    state = Ledger(made / "ledger").state
    job = state.configs[-1]["job"]
    job |= named_by_sections("org/model", "dir/file") | {"model": "org/model@main", "reference": "org/model"}
    job["generate"] |= {"engine": {"tokenizer": "org/model"}}
    job["judge"] = {"model": "accounts/org/models/judge"}
    kept = ("baseline/model", "baseline/reference", "baseline/reward/1", "baseline/process")
    state.commits |= {step: Commit(step, "", (), {"id": "org/model", "revision": "c0"}) for step in kept}
    names = Names(state)
    said = names.published()
    assert (names.base, names.reference, names.origin["id"]) == ("org/model@main", "org/model", "org/model")
    assert [each["model"] for each in said["reward"]["models"]] == ["org/model", "file"]
    assert said["steps"]["process"]["model"] == said["generate"]["engine"]["tokenizer"] == "org/model"
    assert said["judge"]["model"] == "accounts/org/models/judge"


def test_pairs_of_earlier_rounds_are_told(tmp_path: Path) -> None:
    """In the card, ratchet.json, report.md and the page."""
    run_job(make_project(tmp_path, rounds=2), StandIns(), "pairs.replay=1")
    run = tmp_path / "run"
    commits = Ledger(run / "ledger").state.commits
    own, again = (commits[f"rounds/02/{phase}"].facts["pairs"] for phase in ("pairs", "replay"))
    assert own and again
    export_model(str(run), tmp_path / "away")
    said, card = json.loads((tmp_path / "away/ratchet.json").read_text()), (tmp_path / "away/README.md").read_text()
    told = f"| 2 | {own}, and {again} of earlier rounds | "
    assert told in card and told in (run / "report.md").read_text()
    assert [each["replayed"] for each in said["lineage"]] == [None, {"pairs": again, "rounds": 1}]
    rounds = figures(run, SOURCES, Ledger(run / "ledger"))["rounds"]
    assert [each["replayed"] for each in rounds[-2:]] == [None, again]


def test_a_copy_shares_nothing_with_its_run(made: Path, tmp_path: Path) -> None:
    before = contents(made)
    export_model(str(made), tmp_path / "away")
    export_pairs(str(made), tmp_path / "pairs")
    for file in [*(tmp_path / "away").rglob("*"), *(tmp_path / "pairs").rglob("*")]:
        if file.is_file():
            assert file.stat().st_nlink == 1
            file.write_bytes(b"mine")
    assert contents(made) == before


def test_pairs_are_a_data_set(made: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    exported = export_pairs(str(made), tmp_path / "pairs")
    rows = [read_table(made / f"rounds/{number:02d}/pairs/00000.parquet").to_pylist() for number in (1, 2)]
    loaded = load_dataset(str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == [*rows[0], *rows[1]] and exported.rows == len(loaded)
    assert export_pairs(f"{made}@round2", tmp_path / "second").rows == len(rows[1])


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("{made}@round7", "round 7 has no checkpoint. Rounds that have one: 1, 2"),
        ("{made}@two", "names no run: write run:NAME, or run:NAME@round2"),
        ("nothing", "no such run"),
        ("{begun}", "this run has promoted no checkpoint: its reference is still its base model. Name that model"),
        ("{begun}@round1", "round 1 has no checkpoint. Rounds that have one: none."),
    ],
)
def test_mistakes_have_one_message(
    made: Path, tmp_path: Path, run: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = SampleRun(tmp_path / "begun")
    begun.claim()
    begun.configure()
    named = run.format(made=made, begun=begun.root)
    assert ratchet("export", named, tmp_path / "away") == 2
    err = capsys.readouterr().err
    assert said in err and err.count(named.partition("@")[0]) == 1
    assert os.listdir(tmp_path) == ["begun"]


def test_what_is_there_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_model(str(made), tmp_path / "empty")
    for folder, said in ((tmp_path / "empty", "exists already"), (made / "rounds/away", "lies in the run")):
        with pytest.raises(BadInput, match=said):
            export_model(str(made), folder)
        with pytest.raises(BadInput, match=said):
            export_pairs(str(made), folder)


@pytest.mark.parametrize("place", ["rounds/02/checkpoint/copy", "ledger/copy", "baseline/a/b"])
def test_no_run_gets_what_was_made_of_another(made: Path, tmp_path: Path, place: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(made, other)
    before = contents(other)
    for export in (export_model, export_pairs):
        with pytest.raises(BadInput, match=f"lies in the run {other}"):
            export(str(made), other / place)
    assert contents(other) == before


@pytest.mark.parametrize("run", ["nothing", "nothing@round1"])
def test_a_run_is_looked_for_where_every_command_does(
    made: Path, tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(made.parent))
    assert ratchet("export", run, tmp_path / "away") == 2
    assert f"{made.parent}/nothing: no such run. Runs in {made.parent}: run." in capsys.readouterr().err


@pytest.mark.parametrize("file", ["rounds/02/checkpoint/model.safetensors", "rounds/02/pairs/00000.parquet"])
def test_what_is_not_what_was_committed_is_not_taken_away(made: Path, tmp_path: Path, file: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    damaged = bytearray((run / file).read_bytes())
    damaged[-1] ^= 1
    (run / file).write_bytes(damaged)
    with pytest.raises((BadInput, Damaged)):
        (export_model if "checkpoint" in file else export_pairs)(str(run), tmp_path / "away")
    assert os.listdir(tmp_path) == ["run"]
    with pytest.raises((BadInput, Damaged)):
        (export_model if "checkpoint" in file else export_pairs)(str(run), tmp_path / "new/and/deep")
    assert os.listdir(tmp_path) == ["run"]


def test_a_folder_that_cannot_be_made_is_one_message(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("export", made, "/proc/nothing/away") == 1
    assert "/proc/nothing/away: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["rounds/02/checkpoint/config.json", "rounds/02/pairs/00000.parquet"])
def test_no_link_of_a_stranger_is_followed(made: Path, tmp_path: Path, file: str) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret"
    shutil.copytree(made, run)
    secret.write_bytes((run / file).read_bytes())
    (run / file).unlink()
    (run / file).symlink_to(secret)
    with pytest.raises(RatchetError):
        (export_model if "checkpoint" in file else export_pairs)(str(run), tmp_path / "away")
    assert sorted(os.listdir(tmp_path)) == ["run", "secret"]


def test_a_card_shows_what_a_stranger_says_as_text(tmp_path: Path) -> None:
    files = {split: f"{split}.jsonl" for split in ("train", "gate", "test")}
    data = files | {"template": f"{EVIL}\n---\n![x](http://x)\n{{question}}\n"}
    job = make_project(tmp_path, rounds=1, data=data)
    run_job(job, StandIns())
    export_model(str(tmp_path / "run"), tmp_path / "away")
    export_pairs(str(tmp_path / "run"), tmp_path / "pairs")
    for card in (tmp_path / "away/README.md", tmp_path / "pairs/README.md"):
        said = card.read_text()
        assert "\x1b" not in said and "ratchet" in str(front_matter(card)["tags"])
        assert all(line.startswith("    ") for line in said.splitlines() if "http://x" in line)
