"""Samples in waves: the same pairs with fewer samples, and every wave a step that is resumed, verified and reported."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.rescore import rescore
from orchestrator.commands.verify.command import verify
from orchestrator.errors import BadInput, Interrupted
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import SamplingPlan, Shard
from orchestrator.reports.health import health
from orchestrator.reports.report import evidence
from orchestrator.reports.rounds import rounds
from orchestrator.reports.status import status
from orchestrator.rounds.waves import plans
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.orchestrator.sources.test_sources import IMITATE, Hinted
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import JOB, StandInEngines, StandIns, make_project, run_job, skill_of
from workers.files import write_table

PLAN = SamplingPlan(samples=8, temperature=1.0, top_p=1.0, top_k=0, max_tokens=8, stop=(), seed=1)
GENERATE = {"samples": 8, "max_tokens": 8, "shard_prompts": 3}


def project(folder: Path, wave: int | None = 2, **changes: Any) -> Path:
    """A job that makes a pair a prompt of 8 samples; the reference is right in three of four."""
    generate = GENERATE | {"wave_samples": wave}
    usual = {"skill": 0.75, "generate": generate, "pairs": {"per_prompt": 1}, "rounds": 1}
    return make_project(folder, **usual | changes)


def rows(run: Path, step: str) -> list[dict[str, Any]]:
    files = sorted((run / step).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def facts(run: Path) -> dict[str, dict[str, Any]]:
    return {step: commit.facts for step, commit in Ledger(run / "ledger").state.commits.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which nobody changes."""
    folder = tmp_path_factory.mktemp("waves")
    run_job(project(folder), StandIns())
    return folder / "run"


def test_a_wave_goes_on_where_the_one_before_has_ended() -> None:
    assert [(plan.first_sample, plan.samples) for plan in plans(PLAN, 3)] == [(0, 3), (3, 3), (6, 2)]
    assert [*plans(PLAN, 3)[1].sample_indices] == [3, 4, 5]
    assert plans(PLAN, None) == plans(PLAN, 8) == plans(PLAN, 9) == [PLAN]
    assert all(replace(plan, samples=8, first_sample=0) == PLAN for plan in plans(PLAN, 3))


def test_the_pairs_are_those_of_all_samples(finished: Path, tmp_path: Path) -> None:
    run_job(project(tmp_path, wave=None), StandIns())
    pairs, all_pairs = (rows(run, "rounds/01/pairs") for run in (finished, tmp_path / "run"))
    assert pairs == all_pairs and pairs
    whole = {(r["prompt_id"], r["sample_index"]): r for r in rows(tmp_path / "run", "rounds/01/samples")}
    waves = [finished / "rounds/01", *sorted((finished / "rounds/01/wave").iterdir())]
    drawn = {(r["prompt_id"], r["sample_index"]): r for wave in waves for r in rows(wave, "samples")}
    assert drawn.items() <= whole.items() and len(drawn) < len(whole)
    kinds = [f"prompts_{kind}" for kind in ("mixed", "all_correct", "all_wrong", "paired")]
    told = [facts(run)["rounds/01/pairs"] for run in (finished, tmp_path / "run")]
    assert [told[0][kind] for kind in kinds] == [told[1][kind] for kind in kinds]
    saved = sum(f.get("saved", 0) for step, f in facts(finished).items() if "/wave/" in step)
    assert saved == len(whole) - len(drawn)


def test_who_goes_on_is_who_is_not_decided(finished: Path) -> None:
    seen: dict[str, set[str]] = {row["prompt_id"]: set() for row in rows(finished, "rounds/01/prompts")}
    waves = ("rounds/01", "rounds/01/wave/02", "rounds/01/wave/03")
    for wave, following in itertools.pairwise(waves):
        for row in rows(finished, f"{wave}/verdicts"):
            seen[row["prompt_id"]].add(row["verdict"])
        open_ones = [prompt_id for prompt_id, verdicts in seen.items() if len(verdicts) < 2]
        assert [row["prompt_id"] for row in rows(finished, f"{following}/prompts")] == open_ones


def test_a_shard_of_a_wave_has_prompts_of_the_rounds_shard(finished: Path) -> None:
    for wave in sorted((finished / "rounds/01/wave").iterdir()):
        for file in (wave / "samples").glob("*.parquet"):
            first = pq.read_table(finished / "rounds/01/samples" / file.name, columns=["prompt_id"])
            of_wave = pq.read_table(file, columns=["prompt_id"])
            assert {*of_wave["prompt_id"].to_pylist()} <= {*first["prompt_id"].to_pylist()}


def test_what_was_saved_and_the_bias_are_told(finished: Path) -> None:
    verdicts = [row["verdict"] for row in rows(finished, "rounds/01/verdicts")]
    later = [r["verdict"] for wave in (finished / "rounds/01/wave").iterdir() for r in rows(wave, "verdicts")]
    first, every = (f"{100 * v.count('correct') / len(v):.1f}" for v in (verdicts, verdicts + later))
    assert first != every
    report = (finished / "report.md").read_text()
    saved = 64 - len(verdicts + later)
    [row] = re.findall(r"\n(\| 1 \| \d \| \d+ \| \d+ \| [\d.]+ \| [\d.]+ \| [\d.]+ \|)\n", report)
    assert row.endswith(f"| {len(verdicts + later)} | {saved} | {100 * saved / 64:.1f} | {first} | {every} |")
    [told] = status(finished)["rounds"]
    assert told["samples"] == len(verdicts + later)
    assert told["correct"] == (verdicts + later).count("correct")


def test_a_prompt_of_several_waves_counts_once(finished: Path) -> None:
    """Each wave counts its prompts by its own samples; their sums said that prompts were all wrong, all of which had a
    right sample."""
    folders = [finished / "rounds/01", *sorted((finished / "rounds/01/wave").iterdir())]
    graded = [row for folder in folders for row in rows(folder, "verdicts")]
    by_prompt = {name: [r for r in graded if r["prompt_id"] == name] for name in {r["prompt_id"] for r in graded}}
    kinds = Counter(frozenset(row["verdict"] for row in found) for found in by_prompt.values())
    distinct = [len({row["extracted"] for row in found}) for found in by_prompt.values()]
    tokens = [row["num_tokens"] for folder in folders for row in rows(folder, "samples")]
    state = Ledger(finished / "ledger").state
    [round_] = rounds(state)
    told = health(evidence(finished, state, round_))
    shares = {name: told[f"prompts_{name}"] * len(by_prompt) for name in ("mixed", "all_correct", "all_wrong")}
    right, wrong = frozenset({"correct"}), frozenset({"wrong"})
    assert shares == pytest.approx(
        {"mixed": kinds[right | wrong], "all_correct": kinds[right], "all_wrong": kinds[wrong]}
    )
    assert told["distinct_answers"] == pytest.approx(fmean(distinct))
    assert told["sample_tokens"] == pytest.approx(fmean(tokens))
    [status_of] = status(finished)["rounds"]
    assert status_of["health"]["prompts_mixed"] == told["prompts_mixed"]


def test_verify_follows_every_wave_and_computes_who_goes_on(finished: Path) -> None:
    found = verify(finished)
    assert found.findings == [] and found.followed
    for key in ("prompts", "decided", "saved"):
        path, document = next(
            r for r in records(finished).items() if r[1]["data"].get("step", "").endswith("02/prompts")
        )
        before = path.read_bytes()
        document["data"]["facts"][key] += 1
        seal(path, document)
        assert any(path.name in line and key in line for line in verify(finished).findings)
        path.write_bytes(before)


@pytest.mark.parametrize("stop", [4, 9, 13])
def test_a_resumed_run_draws_the_same_waves(finished: Path, tmp_path: Path, stop: int) -> None:
    job = project(tmp_path)
    with pytest.raises(Interrupted):
        run_job(job, StandIns(on_call=StopAt(stop, Interrupted("SIGTERM"))))
    run_job(job, StandIns())
    assert history(tmp_path / "run") == history(finished)


class Quarantining(StandIns):
    """The engines give up a prompt in the second wave."""

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return _Quarantining(self, skill_of(model))


class _Quarantining(StandInEngines):
    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard, said in super().generate(shards, plan):
            table = pq.read_table(shard.output)
            if plan.first_sample == 2 and not self.workers.calls["gave up"]:
                self.workers.call("gave up")
                name = table["prompt_id"][0].as_py()
                kept = table.filter([row != name for row in table["prompt_id"].to_pylist()])
                said |= {"quarantined": [name], "samples": kept.num_rows, "file": write_table(kept, shard.output)}
                said["tokens"] = sum(kept["num_tokens"].to_pylist())
            yield shard, said


def test_a_prompt_that_took_engines_down_is_not_asked_again(tmp_path: Path) -> None:
    run_job(project(tmp_path), Quarantining())
    run = tmp_path / "run"
    [given_up] = facts(run)["rounds/01/wave/02/samples"]["quarantined"]
    assert given_up in {row["prompt_id"] for row in rows(run, "rounds/01/wave/02/prompts")}
    assert given_up not in {row["prompt_id"] for row in rows(run, "rounds/01/wave/03/prompts")}
    assert verify(run).findings == []
    assert "have no samples but those of earlier waves" in (run / "report.md").read_text()


def test_correct_samples_are_enough_to_imitate_and_hints_are_for_what_no_wave_solved(tmp_path: Path) -> None:
    data = JOB["data"] | {"hint_template": "{question} Hint: {answer}"}
    generate = GENERATE | {"wave_samples": 1, "samples": 3, "hint": True}
    changes = {"data": data, "generate": generate, "pairs": {"rule": "correct", "per_prompt": 1}}
    run_job(project(tmp_path, skill=0.3, **changes | IMITATE), Hinted())
    run = tmp_path / "run"
    waves = [run / "rounds/01", *sorted((run / "rounds/01/wave").iterdir())]
    solved = {r["prompt_id"] for wave in waves for r in rows(wave, "verdicts") if r["verdict"] == "correct"}
    assert {r["prompt_id"] for r in rows(run, "rounds/01/hinted/prompts")} == {
        r["prompt_id"] for r in rows(run, "rounds/01/prompts")
    } - solved
    assert verify(run).findings == []


def test_a_fork_that_pairs_otherwise_takes_the_first_wave(finished: Path, tmp_path: Path) -> None:
    fork(finished, tmp_path / "child", ["pairs.per_prompt=2"])
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    made = facts(tmp_path / "child")
    assert verify(tmp_path / "child").findings == []
    assert made["rounds/01/wave/02/prompts"]["prompts"] > facts(finished)["rounds/01/wave/02/prompts"]["prompts"]
    assert workers.calls["generate"] < len(Ledger(tmp_path / "child/ledger").state.shards) * 3


def test_samples_that_verdicts_have_asked_for_are_not_graded_in_another_way(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="drawn in waves"):
        rescore(finished, tmp_path / "child", 1, ["grade.strict=false"], print, [])
