"""Verdicts that say nothing, through the loop with stand-ins at its seam: counted by cause, told, in no pair."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.config import Grade
from orchestrator.ledger import recipes
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.recipes import Fields
from orchestrator.records.abstentions import WORDS, abstained
from orchestrator.records.rows import CAUSES, GRADERS_VERSION
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.rounds import RoundStatus
from orchestrator.reports.status import status
from orchestrator.reports.symptoms import symptoms
from orchestrator.rounds.pair_files import Scored, write_pairs
from orchestrator.rounds.pairing import PairingPlan
from orchestrator.rounds.round import NoPairs
from orchestrator.tracking.projection import step_figures
from tests.orchestrator.test_cli import ratchet
from tests.support.sample_run import evaluation
from tests.support.stand_ins import StandInGraders, StandIns, make_project, run_job
from tests.support.version_stand_ins import Second


def facts(run: Path, step: str) -> dict[str, Any]:
    return Ledger(run / "ledger").state.commits[step].facts


def rows(run: Path, step: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(run / step).to_pylist()
    return found


def test_words_are_there_for_every_cause() -> None:
    assert tuple(WORDS) == CAUSES


def test_what_is_unreadable_is_counted_told_and_in_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, run = run_job(make_project(tmp_path), Second()), tmp_path / "run"
    verdicts = rows(run, "rounds/01/verdicts")
    unreadable = [row for row in verdicts if row["cause"] == "unreadable"]
    assert unreadable and all((row["verdict"] == "ungradable") == (row["cause"] is not None) for row in verdicts)
    found = facts(run, "rounds/01/verdicts")
    assert found["unreadable"] == found["ungradable"] == len(unreadable)
    assert found["truncated"] == found["failed"] == found["gold"] == 0 and found["graders_version"] == GRADERS_VERSION
    left_out = {(row["prompt_id"], row["sample_index"]) for row in unreadable}
    for pair in rows(run, "rounds/01/pairs"):
        assert not left_out & {(pair["prompt_id"], pair[f"{side}_sample"]) for side in ("chosen", "rejected")}
    assert any(f"{len(unreadable)} ungradable ({len(unreadable)} unreadable)" in line for line in said)
    assert verify(run).findings == []

    # Evaluations count it as not solved, and say so.
    tested = rows(run, "rounds/01/evaluation/test.parquet")
    figures = facts(run, "rounds/01/evaluation")
    counted = Counter(row["cause"] for row in tested)
    assert figures["test"]["unreadable"] == counted["unreadable"] > 0 and figures["graders_version"] == GRADERS_VERSION
    assert figures["test"]["correct"] == sum(row["verdict"] == "correct" for row in tested)
    assert any(f", with {counted['unreadable']} unreadable as not solved" in line for line in said)
    row = status(run)["rounds"][0]
    assert row["causes"] == {"unreadable": len(unreadable)} and row["unsolved"] == {"unreadable": counted["unreadable"]}
    assert ratchet("status", run) == 0
    assert f"ungradable in round 1, samples: {len(unreadable)} unreadable" in capsys.readouterr().out
    keys = {figure.key: figure.value for figure in step_figures(1, "evaluation", figures, 0.0)}
    assert keys["round/test_unreadable"] == counted["unreadable"] and "graders_version" not in keys
    report = (run / "report.md").read_text()
    assert f"| {len(unreadable)} unreadable |" in report and "unreadable (test)" in report


def test_pairs_that_abstention_costs_are_counted(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), Second())
    run, plan = tmp_path / "run", PairingPlan(2)
    by_prompt: dict[str, list[str]] = {}
    for row in rows(run, "rounds/01/verdicts"):
        by_prompt.setdefault(row["prompt_id"], []).append(row["cause"] or row["verdict"])
    lost = [v for v in by_prompt.values() if "correct" in v and "wrong" not in v and "unreadable" in v]
    assert lost
    found = facts(run, "rounds/01/pairs")
    assert (found["prompts_lost"], found["pairs_lost"]) == (len(lost), plan.per_prompt * len(lost))
    assert f"| {found['pairs_lost']} |" in (run / "report.md").read_text()
    # Files of version 1 have no column `cause`, and nothing is known of them.
    old = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(run / "rounds/01/verdicts/00000.parquet").drop_columns(["cause"]), old)
    shard = Scored(run / "rounds/01/samples/00000.parquet", old)
    made = write_pairs(run / "rounds/01/prompts/train.parquet", [shard], plan, tmp_path / "pairs.parquet")
    assert made["pairs_lost"] == made["prompts_lost"] == 0


class Speechless(StandIns):
    """Of samples, everything that is not correct is unreadable."""

    def graders(self, settings: Any) -> StandInGraders:
        return SpeechlessGraders(self)


class SpeechlessGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        found = super()._verdict(sample, gold)
        return found if found["verdict"] == "correct" else found | {"verdict": "ungradable", "cause": "unreadable"}


def test_a_round_without_pairs_says_what_abstention_has_to_do_with_it(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match=r"pairs if unreadable answers were wrong: see grade\.unreadable"):
        run_job(make_project(tmp_path), Speechless())


def test_a_new_key_at_its_default_changes_no_fingerprint() -> None:
    without = recipes.fingerprint({"grade": Fields(Grade(), without=("unreadable",))})
    plain, paid = (recipes.fingerprint({"grade": Grade(unreadable=how)}) for how in ("ungradable", "wrong"))
    assert plain == without != paid


@pytest.mark.parametrize(
    ("cause", "cure"),
    [
        ("truncated", "generate.max_tokens"),
        ("unreadable", "extracted"),
        ("failed", "grade.timeout"),
        ("gold", "grade.graders"),
    ],
)
def test_each_cause_has_a_warning_and_a_cure_of_its_own(cause: str, cure: str) -> None:
    counts = {"correct": 50, "wrong": 40, "ungradable": 10} | {c: 10 * (c == cause) for c in CAUSES}
    base = Evidence(RoundStatus(0, {"evaluation": {"test": evaluation(40)}}))
    found = symptoms(base, [Evidence(RoundStatus(1, {"verdicts": counts}))])
    assert len(found) == 1 and "10 % of the samples" in found[0] and cure in found[0]
    few = counts | {"correct": 900}
    assert symptoms(base, [Evidence(RoundStatus(1, {"verdicts": few}))]) == []


def test_what_version_1_counted_is_still_warned_of() -> None:
    base = Evidence(RoundStatus(0))
    [found] = symptoms(base, [Evidence(RoundStatus(1, {"verdicts": {"correct": 50, "wrong": 40, "ungradable": 10}}))])
    assert "10 % of the samples are ungradable" in found


def test_test_answers_that_cannot_be_read_are_warned_of() -> None:
    test = evaluation(40) | {"unreadable": 12, "failed": 0}
    [found] = symptoms(Evidence(RoundStatus(0)), [Evidence(RoundStatus(1, {"evaluation": {"test": test}}))])
    assert "12 of 100 greedy test answers cannot be read and count as not solved" in found


def test_causes_in_words() -> None:
    assert abstained({"ungradable": 3}) == abstained(None) == ""
    assert abstained({"truncated": 2, "unreadable": 1}) == "2 truncated, 1 unreadable"


def test_a_file_of_answers_is_told_by_cause_and_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [("60", "Final answer: the number of eggs that Ann had", "stop"), ("60", "Final answer: 60", "length")]
    lines = [{"gold": g, "text": t, "finish_reason": f} for g, t, f in [*answers, ("60", "Final answer: 60", "stop")]]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = ("grade", source, "-o", output, "--grader", "number", "--processes", "1", "--json")
    assert ratchet(*common) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["causes"] == {"truncated": 1, "unreadable": 1} and told["graders_version"] == GRADERS_VERSION
    assert [json.loads(line)["cause"] for line in output.read_text().splitlines()] == ["unreadable", "truncated", None]
    assert ratchet(*common, "--unreadable", "wrong") == 0
    assert json.loads(capsys.readouterr().out)["causes"] == {"truncated": 1}
    assert [json.loads(line)["verdict"] for line in output.read_text().splitlines()] == [
        "wrong",
        "ungradable",
        "correct",
    ]
    assert ratchet(*common, "--unreadable", "right") == 2
    assert "--unreadable" in capsys.readouterr().err
