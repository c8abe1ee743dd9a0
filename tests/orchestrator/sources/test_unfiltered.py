"""Samples imitated whatever their verdicts (`pairs.rule: unfiltered`), with stand-in workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from orchestrator.records.rows import SamplingPlan
from orchestrator.rounds.round import NoPairs
from tests.orchestrator.commands.test_verify import forge
from tests.orchestrator.sources.test_sources import IMITATE, assert_sound, project, rows
from tests.support.stand_ins import StandInEngines, StandInGraders, StandIns, make_project, run_job


class CutEngines(StandInEngines):
    """Samples of which some are cut off; the graders say nothing of these, nor of what has no answer."""

    def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        said, of_training = super()._sample(prompt, index, plan), prompt["prompt_id"].startswith("train")
        if of_training and (index == 1 or self.workers.calls["cut all"]):
            return said | {"finish_reason": "length"}
        return said | ({"text": "no answer"} if of_training and index == 2 else {})


class CutGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        cause = "truncated" if sample["finish_reason"] == "length" else None
        cause = "unreadable" if sample["text"] == "no answer" else cause
        return super()._verdict(sample, gold) | ({"verdict": "ungradable", "cause": cause} if cause else {})


class Cut(StandIns):
    def engines(self, model: str, probe: Path | None = None) -> CutEngines:
        return CutEngines(self, super().engines(model).skill)

    def graders(self, settings: Any) -> CutGraders:
        return CutGraders(self)


def unfiltered(folder: Path, **pairs: Any) -> Path:
    return make_project(folder, pairs={"rule": "unfiltered", "per_prompt": 4} | pairs, rounds=1, init="base", **IMITATE)


def test_all_that_ended_by_themselves_are_imitated_right_or_wrong(tmp_path: Path) -> None:
    workers = Cut()
    run_job(unfiltered(tmp_path), workers)
    pairs, verdicts = rows(tmp_path, "rounds/01/pairs"), rows(tmp_path, "rounds/01/verdicts")
    ended = {(r["prompt_id"], r["sample_index"]) for r in verdicts if r["sample_index"] != 1}
    assert {(r["prompt_id"], r["chosen_sample"]) for r in pairs} == ended and len(pairs) == len(ended) == 24
    assert {r["verdict"] for r in verdicts} == {"correct", "wrong", "ungradable"}
    assert all(r["rejected_token_ids"] is None for r in pairs) and workers.calls["reference"] == 0
    assert_sound(tmp_path)


def test_a_prompt_has_at_most_so_many_and_waves_draw_no_more(tmp_path: Path) -> None:
    run_job(unfiltered(tmp_path, per_prompt=2), Cut())
    chosen = [r["chosen_sample"] for r in rows(tmp_path, "rounds/01/pairs")]
    assert sorted(chosen) == [0] * 8 + [2] * 8
    run_job(unfiltered(tmp_path / "waves", per_prompt=1), workers := Cut(), "generate.wave_samples=2")
    assert {r["chosen_sample"] for r in rows(tmp_path / "waves", "rounds/01/pairs")} == {0}
    assert workers.calls["generate"] == 2 + 16, "two shards of one wave, beside the evaluations"
    assert_sound(tmp_path / "waves")


def test_a_sample_that_was_cut_off_and_is_imitated_is_found(tmp_path: Path) -> None:
    run_job(unfiltered(tmp_path), Cut())

    def cut_off(table: list[dict[str, Any]]) -> None:
        table[0]["finish_reason"] = "length"

    forge(tmp_path / "run", "rounds/01/samples/00000.parquet", cut_off)
    assert any("its chosen sample 0 was cut off" in line for line in verify(tmp_path / "run").findings)


def test_where_nothing_ends_there_is_nothing_to_imitate(tmp_path: Path) -> None:
    workers = Cut()
    workers.calls["cut all"] = 1
    with pytest.raises(NoPairs, match=r"no sample ended by itself. Let them be longer \(generate\.max_tokens\)"):
        run_job(unfiltered(tmp_path), workers)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("pairs.gold_as_chosen=true", "`rule: unfiltered` imitates samples alone: leave `gold_as_chosen` out"),
        ("loss.dpo=1", "set `loss.dpo: 0` and `loss.nll: 1`"),
        ("generate.adapt_temperature={}", "with `pairs.rule: unfiltered` others give pairs as well"),
        ("generate.hint=true data.hint_template='{question}{answer}'", "set `pairs.rule: correct`"),
        ("source=judge", "`pairs.rule: unfiltered` imitates samples of `source: sample`, and not of `judge`"),
    ],
)
def test_what_makes_no_sense_beside_it_is_refused(tmp_path: Path, overrides: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_job(unfiltered(tmp_path), overrides.split())
    assert said in str(refused.value)


def test_one_sample_and_gold_answers_that_no_grader_reads_are_enough(tmp_path: Path) -> None:
    """Verdicts decide nothing of the training problems."""
    from orchestrator.inputs.gold_check import _grades_samples

    job = load_job(unfiltered(tmp_path), ["generate.samples=1", "generate.temperature=0"]).job
    assert not _grades_samples(job)
    assert _grades_samples(load_job(project(tmp_path / "zip")).job)
