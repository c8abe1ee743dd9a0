"""A fixed reference model from outside the run: `reference: MODEL`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.config.places import run_folder
from orchestrator.driver.kept import base_model_of, reference_of
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.models.named import on_hub
from orchestrator.records.rows import TrainingPlan
from orchestrator.reports.lineage import pair_files_of_reference
from tests.orchestrator.commands.test_doctor import examined
from tests.orchestrator.models.test_hub_model import TINY, process
from tests.support.hub_server import COMMIT, MODEL, serve
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, pair, right
from tests.support.stand_ins import StandIns, make_model, make_project, run_job, skill_of


class Watching(StandIns):
    """Remembers which reference each training was given, and its skill."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(gain=0.1, **settings)
        self.seen: list[tuple[str, float]] = []

    def watch(self, plan: TrainingPlan) -> None:
        self.seen.append((plan.reference, skill_of(plan.reference)))


def with_reference(folder: Path, reference: str = "ref", **changes: Any) -> Path:
    """A job with a reference of skill 0.75 in `folder`/ref."""
    make_model(folder / "ref", 0.75)
    return make_project(folder, reference=reference, **changes)


def refused(job: Path, *overrides: str) -> str:
    """What `validate` and `run` say alike; nothing of a run is begun."""
    file = load_job(job, overrides)
    with pytest.raises(BadInput) as told:
        run = Run(run_folder(file.job))
        reference_of(file, run, base_model_of(file, run, weights=False), weights=False)
    with pytest.raises(BadInput) as error:
        run_job(job, StandIns(), *overrides)
    assert str(error.value) == str(told.value) and str(error.value).startswith(f"{job}: reference: ")
    assert not (job.parent / "run").exists()
    return str(error.value)


def trainings(root: Path) -> list[str]:
    return [commit.fingerprint for step, commit in Ledger(root / "ledger").state.commits.items() if "train" in step]


# Which model it is


def test_every_round_is_trained_against_it_and_the_run_keeps_it(tmp_path: Path) -> None:
    job, workers, root = with_reference(tmp_path), Watching(), tmp_path / "run"
    run_job(job, workers)
    assert workers.seen == [(str(root / "baseline/reference"), 0.75)] * 2
    assert all(file.stat().st_nlink == 2 for file in (root / "baseline/reference").iterdir())
    assert Ledger(root / "ledger").state.configs[0]["model"] == str(tmp_path / "seed")
    assert verify(root).findings == []


def test_a_resume_needs_nothing_outside(tmp_path: Path) -> None:
    job, workers = with_reference(tmp_path), Watching()
    run_job(job, workers, "rounds=1")
    shutil.rmtree(tmp_path / "ref")
    run_job(job, workers)
    assert [skill for _, skill in workers.seen] == [0.75, 0.75]
    assert verify(tmp_path / "run").findings == []
    assert CliRunner().invoke(app, ["validate", str(job)]).exit_code == 0


def test_a_driver_that_dies_before_anything_is_done_has_kept_it(tmp_path: Path) -> None:
    def die(name: str) -> None:
        raise KeyboardInterrupt

    job, workers = with_reference(tmp_path), Watching()
    with pytest.raises(KeyboardInterrupt):
        run_job(job, StandIns(on_call=die))
    shutil.rmtree(tmp_path / "ref")
    run_job(job, workers)
    assert [skill for _, skill in workers.seen] == [0.75, 0.75]


def test_another_reference_is_another_training_and_the_same_one_is_the_same(tmp_path: Path) -> None:
    jobs = {name: make_project(tmp_path / name, reference="ref") for name in ("a", "again", "other")}
    for name, job in jobs.items():
        make_model(job.parent / "ref", 0.5 if name == "other" else 0.75)
        run_job(job, StandIns(gain=0.1))
    a, again, other = (trainings(tmp_path / name / "run") for name in jobs)
    assert len(a) == 2 and a == again and not set(a) & set(other)


def test_previous_and_base_are_words_and_a_folder_of_that_name_is_written_with_a_dot(tmp_path: Path) -> None:
    make_model(tmp_path / "base", 0.75)
    for reference, skills in (("base", [0.4, 0.4]), ("previous", [0.4, 0.5]), ("./base", [0.75, 0.75])):
        workers, root = Watching(), tmp_path / "runs" / str(skills)
        run_job(make_project(tmp_path, run_dir=str(root)), workers, f"reference={reference}")
        assert [skill for _, skill in workers.seen] == skills
        assert (root / "baseline/reference").exists() == (reference == "./base")


def test_a_round_of_another_run(tmp_path: Path) -> None:
    first, root = tmp_path / "first/run", tmp_path / "run"
    run_job(make_project(tmp_path / "first"), StandIns(gain=0.1))
    job, workers = with_reference(tmp_path, f"run:{first}@round2"), Watching()
    said = run_job(job, workers, "rounds=1")
    assert said[0] == f"reference round 2 of the run tiny ({first}/rounds/02/checkpoint)"
    pairs = [(first / f"rounds/{n:02d}/pairs/00000.parquet").read_bytes() for n in (1, 2)]
    shutil.rmtree(first)
    run_job(job, workers)
    assert workers.seen == [(str(root / "baseline/reference"), pytest.approx(0.6))] * 2
    assert [file.read_bytes() for file in pair_files_of_reference(root, 2)] == pairs
    assert pair_files_of_reference(root, 2)[0].parent == root / "baseline/reference-seen"
    assert verify(root).findings == []


@pytest.mark.full
def test_a_model_of_the_hub(tmp_path: Path) -> None:
    job = make_project(tmp_path, reference=f"{MODEL}@v1")
    (tmp_path / "seed/tokenizer.json").write_bytes(TINY["tokenizer.json"])
    stand_ins = "import sys; from pathlib import Path; from tests.support.stand_ins import StandIns, run_job\n"
    stand_ins += "print(*run_job(Path(sys.argv[1]), StandIns(), *sys.argv[2:]), sep='\\n')"
    with serve({}, TINY) as address:
        checked = process(tmp_path / "home", address, "-m", "orchestrator", "validate", job)
        assert f"reference {MODEL} at commit {COMMIT}\n" in checked.stdout, checked.stderr
        (tmp_path / "seed/tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
        checked = process(tmp_path / "home", address, "-m", "orchestrator", "validate", job)
        assert f"{job}: reference: " in checked.stderr and "give other tokens or other ids" in checked.stderr
        (tmp_path / "seed/tokenizer.json").write_bytes(TINY["tokenizer.json"])
        done = process(tmp_path / "home", address, "-c", stand_ins, job, "rounds=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"reference {MODEL} at commit {COMMIT}\n")
    shutil.rmtree(tmp_path / "home")
    again = process(tmp_path / "home", address, "-c", stand_ins, job)  # no Hub there any more
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run/CURRENT").read_text() == "rounds/02/checkpoint\n"


def test_words_are_no_ids_of_the_hub(tmp_path: Path) -> None:
    for word in ("previous", "base"):
        assert on_hub(load_job(make_project(tmp_path, reference=word)), "reference") is None


# Forks


def test_a_fork_keeps_it(tmp_path: Path) -> None:
    run_job(with_reference(tmp_path), StandIns(gain=0.1), "rounds=1")
    shutil.rmtree(tmp_path / "ref")
    child, workers = tmp_path / "child", Watching()
    fork(tmp_path / "run", child, ["loss.beta=0.3"])
    assert load_job(child / "job.yaml").job.reference == "ref"
    run_job(child / "job.yaml", workers, "rounds=2")
    assert workers.seen == [(str(child / "baseline/reference"), 0.75)] * 2
    assert verify(child).findings == []


def test_a_fork_may_have_another_reference_or_none_of_its_own(tmp_path: Path) -> None:
    run_job(with_reference(tmp_path), StandIns(gain=0.1), "rounds=1")
    make_model(tmp_path / "other", 0.9)
    make_model(tmp_path / "base", 0.9)  # nobody asks for this one
    for name, wanted, skills in (("a", "other", [0.9, 0.9]), ("b", "base", [0.4, 0.4])):
        child, workers = tmp_path / name, Watching()
        fork(tmp_path / "run", child, [f"reference={wanted}"])
        expected = str(tmp_path / "other") if wanted == "other" else "base"
        assert load_job(child / "job.yaml").job.reference == expected
        run_job(child / "job.yaml", workers, "rounds=2")
        assert [skill for _, skill in workers.seen] == skills
        assert (child / "baseline/reference").exists() == (wanted == "other")
        assert verify(child).findings == []


def test_a_run_goes_on_under_the_same_reference_alone(tmp_path: Path) -> None:
    job = with_reference(tmp_path)
    run_job(job, StandIns(gain=0.1), "rounds=1")
    with pytest.raises(BadInput, match="reference: 'ref' in the run, 'base' now"):
        run_job(job, StandIns(), "reference=base")


# What is refused


def test_what_is_not_there(tmp_path: Path) -> None:
    job = with_reference(tmp_path)
    said = refused(job, "reference=previus")
    assert "'previus' does not exist" in said
    assert said.endswith("Give a model, as for `model`, or write `previous` or `base`.")
    assert "no such run" in refused(job, "reference=run:nobody@round1")
    (tmp_path / "ref/model.safetensors").unlink()
    assert "has no *.safetensors file" in refused(job)


def test_validate_prints_it(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["validate", str(with_reference(tmp_path))])
    assert shown.exit_code == 0 and f"reference {tmp_path / 'ref'}\n" in shown.output
    shown = CliRunner().invoke(app, ["validate", str(make_project(tmp_path))])
    assert shown.exit_code == 0 and "reference" not in shown.output


def vocabulary(folder: Path, **tokens: int) -> None:
    added = [{"id": 9, "content": "<end>", "special": True}]
    content = {"padding": folder.name, "added_tokens": added, "model": {"type": "BPE", "vocab": tokens}}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_another_size_of_vocabulary(tmp_path: Path) -> None:
    job = with_reference(tmp_path)
    (tmp_path / "ref/config.json").write_text('{"vocab_size": 20}')
    (tmp_path / "seed/config.json").write_text('{"text_config": {"vocab_size": 10}}')
    said = refused(job)
    assert f"{tmp_path / 'ref'} has not the vocabulary of the base model {tmp_path / 'seed'}" in said
    assert "`vocab_size` of its config.json is 20, not 10" in said


def test_other_tokens_or_other_ids(tmp_path: Path) -> None:
    job = with_reference(tmp_path)
    base, ref = tmp_path / "seed", tmp_path / "ref"
    vocabulary(base, a=0, b=1)
    vocabulary(ref, a=1, b=0)
    assert f"{ref / 'tokenizer.json'} and {base / 'tokenizer.json'} give other tokens or other ids" in refused(job)
    vocabulary(ref, a=0, b=1)
    (ref / "tokenizer.json").write_text((ref / "tokenizer.json").read_text().replace("<end>", "<eos>"))
    assert "give other tokens or other ids" in refused(job)
    (ref / "tokenizer.json").write_text("{")
    assert f"{ref / 'tokenizer.json'}: not JSON" in refused(job)
    (ref / "tokenizer.json").unlink()
    assert f"{ref} has none of tokenizer.json" in refused(job)
    vocabulary(ref, b=1, a=0)  # other bytes, the same vocabulary
    assert (ref / "tokenizer.json").read_bytes() != (base / "tokenizer.json").read_bytes()
    run_job(job, StandIns(), "rounds=1")


def test_a_sentencepiece_model_is_compared_byte_by_byte(tmp_path: Path) -> None:
    job = with_reference(tmp_path)
    for name, content in (("seed", b"\x0a\x01"), ("ref", b"\x0a\x02")):
        (tmp_path / name / "tokenizer.model").write_bytes(content)
    assert "tokenizer.model give other tokens or other ids" in refused(job)


def test_imitation_compares_with_nothing(tmp_path: Path) -> None:
    job = with_reference(tmp_path, pairs={"rule": "correct"}, loss={"dpo": 0, "nll": 1})
    with pytest.raises(BadInput, match=r"`reference: ref` names a model that nothing is compared with"):
        load_job(job)
    load_job(job, ["reference=base"])
    with pytest.raises(BadInput, match=r"compared with: `loss\.form: simpo` reads none\. Leave `reference` out, or"):
        load_job(with_reference(tmp_path, loss={"form": "simpo"}))
    load_job(with_reference(tmp_path, loss={"dpo": [0, 1], "nll": 1}))  # from round 2 on it is


def test_a_comparison_tells_it_before_it_begins(tmp_path: Path) -> None:
    make_project(tmp_path)
    arms = {"irpo": {"set": {"reference": "nowhere"}}, "dpo": {}}
    (tmp_path / "all.yaml").write_text(json.dumps({"name": "all", "job": "tiny.yaml", "arms": arms}))
    command = [sys.executable, "-m", "orchestrator", "compare", str(tmp_path / "all.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2 and "reference: 'nowhere' does not exist" in done.stderr, done.stderr


def test_doctor_looks_for_it(tmp_path: Path) -> None:
    _, checks, sound = examined(tmp_path, "reference=nowhere")
    assert not sound and "reference: 'nowhere' does not exist" in checks["model and data"].text


# The guard of sDPO


def staged(tmp_path: Path) -> Path:
    """A run that has been trained on the pairs "a"; the folder of a job with the stages "b" and, of these, one."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    run_job(make_stages(first, {"a": right("a", 3)}), PreferenceStandIns())
    return second


def test_a_reference_that_was_trained_on_a_stage_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    folder, workers = staged(tmp_path), PreferenceStandIns()
    reference = f"run:{tmp_path / 'first/run'}@round1"
    sources = {"b": right("b", 3), "a": right("a", 1)}
    job = make_stages(folder, sources, {"order": "given"}, reference=reference)
    with pytest.raises(BadInput, match=r"the reference of stage 2 has been trained on 1 of the 1 pairs of a\.jsonl"):
        run_job(job, workers)
    assert "train" not in workers.calls
    run_job(job, PreferenceStandIns(), "reference=previous", f"run_dir={folder / 'own'}")  # its own know nothing of it


def test_what_the_fixed_reference_knows_is_left_out(tmp_path: Path) -> None:
    folder = staged(tmp_path)
    reference = f"run:{tmp_path / 'first/run'}@round1"
    sources = {"b": right("b", 3), "a": [*right("a", 1), pair("c?", "1", "2")]}
    job = make_stages(folder, sources, {"order": "given", "drop_seen": True}, reference=reference)
    run_job(job, PreferenceStandIns(), "rounds=1")
    shutil.rmtree(tmp_path / "first")
    run_job(job, PreferenceStandIns())
    facts = Ledger(folder / "run/ledger").state.commits["rounds/02/pairs"].facts
    assert (facts["pairs"], facts["seen"]) == (1, 1)


def test_earlier_stages_are_unknown_to_a_fixed_reference(tmp_path: Path) -> None:
    make_model(tmp_path / "ref", 0.75)
    sources = {"a": right("a", 3), "again": right("a", 1)}
    job = make_stages(tmp_path, sources, {"order": "given"}, reference="ref")
    with pytest.raises(BadInput, match="the reference of stage 2"):
        run_job(job, PreferenceStandIns(), "reference=previous", f"run_dir={tmp_path / 'previous'}")
    run_job(job, PreferenceStandIns())
    assert Ledger(tmp_path / "run/ledger").state.commits["rounds/02/pairs"].facts["seen"] == 0
