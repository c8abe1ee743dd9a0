"""Rounds that learn from groups, and by scores, with stand-in workers: what is written, verified and told."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.records.groups import FURTHER
from orchestrator.records.seeds import derived_seed
from orchestrator.reports.inspection.pairs import pair, updates_with
from orchestrator.reports.inspection.reading import RunReader
from tests.orchestrator.commands.test_verify import forge
from tests.orchestrator.sources.test_sources import Judging, assert_sound, facts, project, rows
from tests.support.stand_ins import StandIns, run_job
from workers.numerics.batching import PairTokens, epoch_batches, grouped

GROUPS: dict[str, Any] = {"pairs": {"rule": "best_rest", "per_prompt": 3}, "loss": {"form": "softmax"}}


def of_groups(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [*same] for name, same in itertools.groupby(found, key=lambda row: row["group"])}


def test_a_right_sample_stands_against_a_group_of_wrong_ones(tmp_path: Path) -> None:
    job = project(tmp_path, rounds=2, **GROUPS)
    run_job(job, StandIns(), "pairs.replay=0.5")
    for number in (1, 2):
        found = rows(tmp_path, f"rounds/{number:02d}/pairs")
        verdicts = {
            (r["prompt_id"], r["sample_index"]): r["verdict"] for r in rows(tmp_path, f"rounds/{number:02d}/verdicts")
        }
        groups = of_groups(found)
        assert groups and max(map(len, groups.values())) > 1
        for name, pairs in groups.items():
            assert name == pairs[0]["pair_id"] and len(pairs) <= 3
            assert len({pair["chosen_sample"] for pair in pairs}) == 1
            assert len({pair["rejected_sample"] for pair in pairs}) == len(pairs)
            prompt = pairs[0]["prompt_id"]
            assert verdicts[prompt, pairs[0]["chosen_sample"]] == "correct"
            assert {verdicts[prompt, pair["rejected_sample"]] for pair in pairs} == {"wrong"}
        told = facts(tmp_path, f"rounds/{number:02d}/pairs")
        assert (told["pairs"], told["groups"]) == (len(found), len(groups)) and told["prompts_paired"] == len(groups)
    replayed = of_groups(rows(tmp_path, "rounds/02/replay"))
    earlier = of_groups(rows(tmp_path, "rounds/01/pairs"))
    assert len(replayed) == round(0.5 * len(earlier))
    assert all(len(pairs) == len(earlier[name.removeprefix("01:")]) for name, pairs in replayed.items())
    assert_sound(tmp_path)
    workers = StandIns()
    run_job(job, workers, "pairs.replay=0.5")
    assert not +workers.calls, "a resume does nothing again"


@pytest.mark.parametrize(
    ("step", "said"), [("pairs", "its pairs are not those"), ("replay", "is no pair of rounds/01")]
)
def test_a_pair_that_was_moved_to_another_group_is_found(tmp_path: Path, step: str, said: str) -> None:
    run_job(project(tmp_path, rounds=2, **GROUPS), StandIns(), "pairs.replay=1")
    forge(tmp_path / "run", f"rounds/02/{step}/00000.parquet", lambda table: table[1].update(group=table[-1]["group"]))
    assert any(said in line for line in verify(tmp_path / "run").findings)


def test_the_updates_of_a_pair_are_those_that_its_group_was_part_of(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1, train={"batch_pairs": 2, "epochs": 2}, **GROUPS), StandIns())
    reader, found = RunReader(tmp_path / "run"), rows(tmp_path, "rounds/01/pairs")
    ids = [[np.array(row[f"{side}_token_ids"], np.int32) for side in ("prompt", "chosen", "rejected")] for row in found]
    trained = grouped([PairTokens(r["pair_id"], *i, group=r["group"]) for r, i in zip(found, ids, strict=True)])
    seed = derived_seed(reader.state.configs[-1]["job"]["seed"], "train", 1)
    batches = [batch for epoch in (0, 1) for batch in epoch_batches(trained, seed, epoch, 2, "pairs")]
    reader.state.commits["rounds/01/train"].facts["steps"] = len(batches)
    for row in found:
        wanted = [n for n, batch in enumerate(batches, 1) if any(trained[at].pair_id == row["group"] for at in batch)]
        assert updates_with(reader, 1, row["pair_id"]) == wanted and len(wanted) == 2
    assert pair(reader, 1, found[1]["pair_id"])["group"] == found[1]["group"]


SCORED: dict[str, Any] = {
    "source": "judge",
    "pairs": {"rule": "margin", "margin": 0.1},
    "self_judge": {"template": "{prompt}|{response}"},
    "loss": {"nll": 0},
}


def test_the_scores_of_both_sides_stand_beside_a_pair_where_the_loss_goes_by_them(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1, **SCORED), Judging(), "loss.form=odpo")
    samples = {(r["prompt_id"], r["sample_index"]): r["text"] for r in rows(tmp_path, "rounds/01/samples")}
    given: dict[tuple[str, str], list[float]] = {}
    for row in rows(tmp_path, "rounds/01/scores"):
        if row["score"] is not None:
            given.setdefault((row["prompt_id"], samples[row["prompt_id"], row["sample_index"]]), []).append(
                row["score"]
            )
    found = rows(tmp_path, "rounds/01/pairs")
    for row, side in itertools.product(found, ("chosen", "rejected")):
        assert row[f"{side}_score"] == pytest.approx(fmean(given[row["prompt_id"], row[side]]))
    assert len({row["chosen_score"] - row["rejected_score"] for row in found}) > 1
    assert_sound(tmp_path)
    told = pair(RunReader(tmp_path / "run"), 1, found[0]["pair_id"])["sides"]
    assert [told[side]["score"] for side in told] == [found[0]["chosen_score"], found[0]["rejected_score"]]
    forge(tmp_path / "run", "rounds/01/pairs/00000.parquet", lambda table: table[0].update(chosen_score=99.0))
    assert any("its pairs are not those" in line for line in verify(tmp_path / "run").findings)


def test_a_fork_that_goes_by_scores_makes_the_pairs_anew_and_no_other_has_the_columns(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1, **SCORED), Judging())
    assert not {*FURTHER} & {*pq.read_schema(tmp_path / "run/rounds/01/pairs/00000.parquet").names}
    assert fork(tmp_path / "run", tmp_path / "other/run", ["loss.form=ipo"]).fit["rounds/01/pairs"] == "taken"
    told = fork(tmp_path / "run", tmp_path / "child/run", ["loss.form=scaled"])
    assert told.fit["rounds/01/pairs"] == "perhaps" and told.fit["rounds/01/scores"] == "taken"
    workers = Judging()
    run_job(tmp_path / "child/run/job.yaml", workers)
    assert workers.calls["generate"] == 0, "of the same samples"
    found, before = rows(tmp_path / "child", "rounds/01/pairs"), rows(tmp_path, "rounds/01/pairs")
    assert [row | dict.fromkeys(("chosen_score", "rejected_score")) for row in found] == [
        row | dict.fromkeys(("chosen_score", "rejected_score")) for row in before
    ]
    assert all(row["chosen_score"] > row["rejected_score"] for row in found)
    assert Counter(workers.calls)["train"] == 1
