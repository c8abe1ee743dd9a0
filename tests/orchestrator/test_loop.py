"""The loop with stand-ins at its seam: what is done, what is kept, what stops it, and what a resume repeats."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.run import shown_run
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput, Damaged, Interrupted, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.records.rows import PROMPTS, SAMPLES, VERDICTS, TrainingPlan, pairs_schema
from orchestrator.reports.status import status
from orchestrator.reports.written import write_reports
from orchestrator.rounds.evaluation import ProbeFailed
from orchestrator.rounds.round import GateStopped, NoPairs
from orchestrator.sources.registry import SOURCES
from orchestrator.text import terminal
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import JOB, StandInEngines, StandIns, all_read, make_project, run_job


def history(run: Path) -> list[tuple[str, str, Any]]:
    """What was committed, in a form in which two runs of the same job agree: no times, epochs or claims."""
    found = []
    for record in Ledger(run / "ledger").records:
        data = record.data
        if record.kind in ("shard", "commit"):
            artifacts = data.get("artifacts") or [data.get("artifact")] if record.kind == "shard" else data["artifacts"]
            files = [(a["path"], a["files"]) for a in artifacts]
            found.append((data["step"], str(data.get("index")), files))
        elif record.kind == "promotion":
            found.append(("promotion", str(data["round"]), data["reference"]))
    return sorted(found, key=repr)


def test_a_job_runs_its_rounds(tmp_path: Path) -> None:
    said = run_job(make_project(tmp_path), StandIns())
    found = status(tmp_path / "run")
    assert found["state"] == "finished"
    assert found["reference"] == str(tmp_path / "run/rounds/02/checkpoint")
    assert [r["promoted"] for r in found["rounds"]] == [True, True]
    assert [r["samples"] for r in found["rounds"]] == [32, 32]
    assert all(r["correct"] + r["wrong"] + r["ungradable"] == 32 and r["pairs"] > 0 for r in found["rounds"])
    assert found["baseline"] < found["rounds"][0]["accuracy"] < found["rounds"][1]["accuracy"]
    assert (tmp_path / "run/CURRENT").read_text() == "rounds/02/checkpoint\n"
    assert any("rounds/02" in line and "gate" in line for line in said)


def test_readers_find_the_promised_tables_and_nothing_else(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    for number in ("01", "02"):
        folder = tmp_path / "run/rounds" / number
        schemas = {"prompts": PROMPTS, "samples": SAMPLES, "verdicts": VERDICTS, "pairs": pairs_schema(False)}
        for name, schema in schemas.items():
            assert pq.read_table(folder / name).schema.equals(schema)
        samples, verdicts = (pq.read_table(folder / n).to_pylist() for n in ("samples", "verdicts"))
        keys = [(row["prompt_id"], row["sample_index"]) for row in samples]
        assert len(set(keys)) == len(keys) == 32
        assert keys == [(row["prompt_id"], row["sample_index"]) for row in verdicts]
        assert not list(folder.rglob(".*"))


def test_pairs_carry_the_ids_of_the_samples_they_are_made_of(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    folder = tmp_path / "run/rounds/01"
    samples = {(r["prompt_id"], r["sample_index"]): r for r in pq.read_table(folder / "samples").to_pylist()}
    verdicts = {
        (r["prompt_id"], r["sample_index"]): r["verdict"] for r in pq.read_table(folder / "verdicts").to_pylist()
    }
    prompts = {r["prompt_id"]: r for r in pq.read_table(folder / "prompts").to_pylist()}
    for pair in pq.read_table(folder / "pairs").to_pylist():
        assert pair["prompt_token_ids"] == prompts[pair["prompt_id"]]["token_ids"]
        for side, verdict in (("chosen", "correct"), ("rejected", "wrong")):
            key = (pair["prompt_id"], pair[f"{side}_sample"])
            assert pair[f"{side}_token_ids"] == samples[key]["token_ids"]
            assert pair[side] == samples[key]["text"]
            assert verdicts[key] == verdict


def test_rounds_use_fresh_prompts(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    ids = [set(pq.read_table(tmp_path / f"run/rounds/{n}/prompts")["prompt_id"].to_pylist()) for n in ("01", "02")]
    assert len(ids[0]) == len(ids[1]) == 8
    assert not ids[0] & ids[1]


def test_replay_adds_pairs_of_earlier_rounds(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns(), "rounds=3", "pairs.replay=0.5")
    own = [pq.read_table(tmp_path / f"run/rounds/{n}/pairs").to_pylist() for n in ("01", "02", "03")]
    again = pq.read_table(tmp_path / "run/rounds/03/replay").to_pylist()
    assert not (tmp_path / "run/rounds/01/replay").exists()
    assert len(again) == round(len(own[0]) / 2) + round(len(own[1]) / 2)
    for pair in again:
        number, _, name = pair["pair_id"].partition(":")
        [original] = [p for p in own[int(number) - 1] if p["pair_id"] == name]
        assert pair | {"pair_id": name} == original
    [facts] = [
        r.data["facts"] for r in Ledger(tmp_path / "run/ledger").records if r.data.get("step") == "rounds/03/train"
    ]
    assert facts["pairs"] == len(own[2]) + len(again)


@pytest.mark.parametrize(("init", "reference"), [("base", "base"), ("previous", "base"), ("base", "previous")])
def test_init_and_reference_are_knobs_of_their_own(tmp_path: Path, init: str, reference: str) -> None:
    seen: list[tuple[str, str]] = []

    class Watching(StandIns):
        def watch(self, plan: TrainingPlan) -> None:
            seen.append((Path(plan.init).parent.name, Path(plan.reference).parent.name))

    run_job(make_project(tmp_path), Watching(), f"init={init}", f"reference={reference}")
    base, previous = tmp_path.name, "01"
    assert seen[-1] == (base if init == "base" else previous, base if reference == "base" else previous)


def test_a_finished_run_does_nothing_when_started_again(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns())
    before = history(tmp_path / "run")
    again = StandIns()
    run_job(job, again)
    assert not again.calls
    assert history(tmp_path / "run") == before


def test_more_rounds_go_on_from_a_finished_run(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns())
    longer = StandIns()
    run_job(job, longer, "rounds=3")
    assert longer.calls["train"] == 1
    assert status(tmp_path / "run")["reference"] == str(tmp_path / "run/rounds/03/checkpoint")


class StopAt:
    """Raises at the n-th piece of work, whatever it is."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.left, self.error = number, error

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def calls_of_a_whole_run(tmp_path: Path) -> int:
    workers = StandIns()
    run_job(make_project(tmp_path / "undisturbed"), workers)
    return sum(workers.calls.values())


@pytest.mark.parametrize(
    ("error", "every"),
    [
        pytest.param(Interrupted("SIGTERM"), 8, id="interrupted"),
        pytest.param(RuntimeError("a bug"), 13, id="failed"),
        pytest.param(Interrupted("SIGTERM"), 1, id="interrupted everywhere", marks=pytest.mark.full),
        pytest.param(RuntimeError("a bug"), 1, id="failed everywhere", marks=pytest.mark.full),
    ],
)
def test_stopped_anywhere_a_run_ends_as_if_undisturbed(tmp_path: Path, error: BaseException, every: int) -> None:
    total = calls_of_a_whole_run(tmp_path)
    expected = history(tmp_path / "undisturbed/run")
    for number in range(1, total + 1, every):
        folder = tmp_path / str(number)
        job = make_project(folder)
        with pytest.raises(type(error)):
            run_job(job, StandIns(on_call=StopAt(number, error)))
        found = status(folder / "run")
        assert found["state"] == ("interrupted" if isinstance(error, Interrupted) else "failed")
        resumed = StandIns()
        run_job(job, resumed)
        assert history(folder / "run") == expected
        # Everything that was finished is kept: only the pieces since the last commit are done again. An
        # evaluation is one piece for the ledger, made of eight shards and their verdicts.
        assert sum(resumed.calls.values()) <= total - (number - 1) + 16
        assert not list((folder / "run").rglob(".*-e*"))


def test_a_changed_setting_is_refused_and_shown(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns())
    with pytest.raises(BadInput, match=r"pairs\.per_prompt: 2 in the run, 3 now"):
        run_job(job, StandIns(), "pairs.per_prompt=3")
    run_job(job, StandIns(), "generate.engines=2", "cluster.timeout=5")


def test_nothing_is_bound_to_settings_before_anything_is_committed(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(1, RuntimeError("no cluster"))))
    run_job(job, StandIns(), "seed=8")
    assert "seed: 8" in (tmp_path / "run/resolved.yaml").read_text()


def test_overlap_is_refused_unless_allowed(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    (tmp_path / "gate.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    with pytest.raises(BadInput, match="allow_overlap"):
        run_job(job, StandIns())
    run_job(job, StandIns(), "data.allow_overlap=true")


@pytest.mark.parametrize("prompts", ["same", "split"])
def test_changed_data_are_refused_also_for_rounds_to_come(tmp_path: Path, prompts: str) -> None:
    job = make_project(tmp_path, data=JOB["data"] | {"prompts": prompts, "prompts_per_round": 10})
    run_job(job, StandIns())
    train = tmp_path / "train.jsonl"
    before = train.read_text()
    train.write_text(before.replace("train 3?", "train three?"))
    for _ in range(2):  # what is there is as it was, and nothing is bound to the new data
        with pytest.raises(BadInput, match=r"data\.train: train\.jsonl has other problems"):
            run_job(job, StandIns(), "rounds=3")
    train.write_text(before)
    run_job(job, StandIns(), "rounds=3")


def test_a_worse_candidate_stops_the_run_at_the_best_reference(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.7)
    for _ in range(2):  # the answer stands when the job is started again
        with pytest.raises(GateStopped, match="stays the reference"):
            run_job(job, StandIns(gain=-0.6))
        found = status(tmp_path / "run")
        assert found["state"] == "stopped"
        assert found["reference"] == str(tmp_path / "seed")
        assert [r["promoted"] for r in found["rounds"]] == [False]


def test_a_stop_of_the_gate_counts_as_success_where_the_job_says_so(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.7, generate=JOB["generate"] | {"dtype": "own"})
    with pytest.raises(GateStopped):
        run_job(job, StandIns(gain=-0.6))
    assert ratchet("resume", tmp_path / "run") == 3
    assert ratchet("resume", tmp_path / "run", "promotion.stop_succeeds=true") == 0
    assert status(tmp_path / "run")["state"] == "stopped", "what is recorded stays"
    assert ratchet("run", job, "promotion.stop_succeeds=false") == 3


@pytest.mark.parametrize(("skill", "kind"), [(1.0, "8 of its prompts have only correct"), (0.0, "8 only wrong")])
def test_no_pairs_is_an_outcome_with_a_name(tmp_path: Path, skill: float, kind: str) -> None:
    workers = StandIns()
    with pytest.raises(NoPairs, match=kind):
        run_job(make_project(tmp_path, skill=skill), workers)
    assert not workers.calls["train"]
    assert status(tmp_path / "run")["state"] == "failed"
    assert (tmp_path / "run/report.md").exists()


class OtherEngines(StandInEngines):
    """Serves other weights than it was given."""

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        return [[-9.0 for _ in completions]]


class WithOtherEngines(StandIns):
    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return OtherEngines(self, 0.4)


def test_an_engine_that_disagrees_with_the_trainer_promotes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="disagree about the new checkpoint"):
        run_job(make_project(tmp_path), WithOtherEngines())
    assert status(tmp_path / "run")["reference"] == str(tmp_path / "seed")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, Path.unlink], ids=["flipped bit", "deleted"])
@pytest.mark.parametrize(
    "name", ["samples/00001.parquet", "verdicts/00000.parquet", "pairs/00000.parquet", "checkpoint/model.safetensors"]
)
def test_a_damaged_file_is_named_and_not_used(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns())
    victim = tmp_path / "run/rounds/01" / name
    harm(victim)
    with pytest.raises(Damaged, match=str(victim)):
        run_job(job, StandIns(), "rounds=3")


def test_stray_files_and_a_lost_cache_do_no_harm(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns())
    run = tmp_path / "run"
    (run / "CURRENT").unlink()
    (run / "rounds/99/checkpoint").mkdir(parents=True)
    (run / "rounds/03").mkdir()
    (run / "rounds/03/pairs").write_text("not ours")
    run_job(job, StandIns(), "rounds=3")
    assert (run / "CURRENT").read_text() == "rounds/03/checkpoint\n"


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="holds something that is no run"):
        run_job(job, StandIns())
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_run_that_was_only_claimed_goes_on_though_somebody_has_looked_at_it(tmp_path: Path) -> None:
    """Its driver was killed before it wrote what it was asked for; `ratchet report` has made a page of that."""
    job, run = make_project(tmp_path), tmp_path / "run"
    Run(run).claim({"host": "elsewhere", "pid": 1, "process_start": 1.0, "version": "0"})
    write_reports(run, SOURCES)
    assert {"report.md", "report.html"} <= {path.name for path in run.iterdir()}
    run_job(job, StandIns())
    assert (run / "CURRENT").read_text() == "rounds/02/checkpoint\n"


def test_the_ledger_says_what_was_asked_for(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns(), "seed=9")
    [config] = Ledger(tmp_path / "run/ledger").state.configs
    assert config["job"]["seed"] == 9
    assert json.dumps(config["versions"])
    assert (tmp_path / "run/job.yaml").exists()
    assert "seed: 9" in (tmp_path / "run/resolved.yaml").read_text()


def test_a_signal_that_became_another_error_still_counts_as_interrupted(tmp_path: Path) -> None:
    """Ray's C code turns what a signal handler raises into a SystemError, now and then."""

    def on_call(name: str) -> None:
        if name == "train":
            try:
                signal.raise_signal(signal.SIGTERM)
            except Interrupted as interrupted:
                raise SystemError("returned a result with an exception set") from interrupted

    with pytest.raises(Interrupted, match="SIGTERM"):
        run_job(make_project(tmp_path), StandIns(on_call=on_call))
    assert status(tmp_path / "run")["state"] == "interrupted"


def test_an_interruption_is_written_down_before_the_workers_end(tmp_path: Path) -> None:
    """Ending them can take longer than whoever interrupts waits before it kills."""
    last: list[str] = []

    class Leaving(StandIns):
        def __exit__(self, *_: object) -> None:
            last.append(Ledger(tmp_path / "run/ledger").records[-1].data["state"])

    def on_call(name: str) -> None:
        if name == "train":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        run_job(make_project(tmp_path), Leaving(on_call=on_call))
    assert last == ["interrupted"]
    assert [r.kind for r in Ledger(tmp_path / "run/ledger").records].count("end") == 1


def test_a_run_that_fails_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_project(tmp_path)

    def run(*overrides: str) -> str:
        """What is said of why it ends."""
        failing = StandIns(on_call=StopAt(3, RatchetError("no luck")))
        with pytest.raises(RatchetError) as failed:
            shown_run(load_job(job, overrides), [], True, hire=lambda *_: failing, ask=all_read)
        capsys.readouterr()
        terminal.failure(failed.value)
        return capsys.readouterr().err

    assert run() == f"ratchet: no luck\n         to go on: ratchet resume {tmp_path / 'run'}\n"
    assert "to go on" not in run("loss.beta=0.9"), "where nothing was begun, the command is to be mended"


def test_fewer_rounds_than_are_decided_leave_nothing_to_do(tmp_path: Path) -> None:
    job, workers = make_project(tmp_path, rounds=2), StandIns()
    assert not [line for line in run_job(job, workers) if "wanted" in line]
    done = workers.calls.copy()
    assert "rounds    2 are decided, and 1 wanted: nothing is left to do, and all are kept" in run_job(
        job, workers, "rounds=1"
    )
    assert workers.calls == done
