"""What rounds learn from, by `source`, with stand-in workers: files, what training is asked for, and the lineage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config import Job
from orchestrator.driver.drive import identity
from orchestrator.driver.kept import keep_problems
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.records.rows import Problem, SamplingPlan, TokenizingPlan, TrainingPlan
from orchestrator.reports.inspection.pairs import pair as inspected
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.views import problem
from orchestrator.reports.page.answers import Answers
from orchestrator.rounds.round import NoPairs
from orchestrator.sources.judge import fill
from tests.orchestrator.commands.test_verify import forge, swap_sides
from tests.support.stand_ins import StandInEngines, StandInGraders, StandIns, chance, make_project, run_job

IMITATE = {"loss": {"dpo": 0, "nll": 1}}
SOLVED = "data.solution=solution"


class Watching(StandIns):
    """Workers that remember what training was asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.plans: list[TrainingPlan] = []

    def watch(self, plan: TrainingPlan) -> None:
        self.plans.append(plan)


def project(folder: Path, **changes: Any) -> Path:
    """A project whose problems have worked solutions."""
    job = make_project(folder, **changes)
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(
            "".join(json.dumps(r | {"solution": f"worked\nFinal answer: {r['answer']}"}) + "\n" for r in rows)
        )
    return job


def rows(folder: Path, step: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in sorted((folder / "run" / step).glob("*.parquet")):
        found += pq.read_table(file).to_pylist()
    return found


def facts(folder: Path, step: str) -> dict[str, Any]:
    return dict(Ledger(folder / "run/ledger").state.commits[step].facts)


def assert_sound(folder: Path) -> None:
    report = verify(folder / "run")
    assert report.findings == []
    assert report.followed


def test_gold_solutions_are_imitated(tmp_path: Path) -> None:
    workers = Watching()
    run_job(project(tmp_path, source="gold", **IMITATE), workers, SOLVED, "rounds=1")
    assert {(r["chosen"], r["rejected"], r["chosen_sample"]) for r in rows(tmp_path, "rounds/01/pairs")} == {
        (r["solution"], None, None) for r in rows(tmp_path, "rounds/01/prompts")
    }
    assert workers.calls["generate"] == 16, "only the evaluations of two models on two splits of 16 sample"
    assert workers.calls["reference"] == 0, "imitation compares with nothing"
    assert_sound(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"), [("gold", "it has a rejected side"), ("sample", "it has no rejected side")]
)
def test_a_side_too_many_or_too_few_is_found(tmp_path: Path, source: str, said: str) -> None:
    run_job(project(tmp_path, source=source, rounds=1, loss={"dpo": int(source == "sample")}), StandIns(), SOLVED)
    ids = [1, 2] if source == "gold" else None
    forge(tmp_path / "run", "rounds/01/pairs/00000.parquet", lambda table: table[0].update(rejected_token_ids=ids))
    assert any(said in line for line in verify(tmp_path / "run").findings)


def test_correct_samples_are_imitated_from_the_base(tmp_path: Path) -> None:
    workers = Watching()
    run_job(project(tmp_path, init="base", pairs={"rule": "correct", "per_prompt": 2}, **IMITATE), workers)
    assert workers.calls["reference"] == 0
    assert {Path(plan.init).name for plan in workers.plans} == {"seed"}
    verdicts = {(r["prompt_id"], r["sample_index"]): r["verdict"] for r in rows(tmp_path, "rounds/02/verdicts")}
    pairs = rows(tmp_path, "rounds/02/pairs")
    assert pairs
    assert all(r["rejected"] is None and r["rejected_token_ids"] is None for r in pairs)
    assert all(verdicts[r["prompt_id"], r["chosen_sample"]] == "correct" for r in pairs)
    assert_sound(tmp_path)


class HintedEngines(StandInEngines):
    """Whoever is told the answer gives it more often."""

    def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        if "Hint" not in prompt["text"]:
            return super()._sample(prompt, index, plan)
        return StandInEngines(self.workers, 0.7)._sample(prompt, index, plan)


class Hinted(Watching):
    def engines(self, model: str, probe: Path | None = None) -> HintedEngines:
        return HintedEngines(self, super().engines(model).skill)


def test_what_no_sample_solves_is_sampled_with_a_hint_that_is_stripped(tmp_path: Path) -> None:
    job = project(tmp_path, skill=0.1, pairs={"rule": "correct"}, rounds=1, init="base", **IMITATE)
    run_job(job, Hinted(), "generate.hint=true", "data.hint_template='{question} Hint: {answer}'")
    prompts = {r["prompt_id"]: r for r in rows(tmp_path, "rounds/01/prompts")}
    hinted = {r["prompt_id"]: r for r in rows(tmp_path, "rounds/01/hinted/prompts")}
    solved = {r["prompt_id"] for r in rows(tmp_path, "rounds/01/verdicts") if r["verdict"] == "correct"}
    assert hinted.keys() == prompts.keys() - solved
    assert all(r["text"].endswith(f"Hint: {r['gold']}") for r in hinted.values())
    helped = {r["prompt_id"] for r in rows(tmp_path, "rounds/01/hinted/verdicts") if r["verdict"] == "correct"}
    pairs = rows(tmp_path, "rounds/01/pairs")
    assert {r["prompt_id"] for r in pairs} == solved | helped
    assert helped
    assert all("Hint" not in r["prompt"] for r in pairs)
    assert all(r["prompt_token_ids"] == prompts[r["prompt_id"]]["token_ids"] for r in pairs)
    assert facts(tmp_path, "rounds/01/pairs")["hinted"] == len(helped)
    assert_sound(tmp_path)
    assert_hints_are_told(RunReader(tmp_path / "run"), pairs, helped)


def assert_hints_are_told(reader: RunReader, made: list[dict[str, Any]], helped: set[str]) -> None:
    """A sample with a hint has the number of another one without, which was wrong, and was taken for the chosen one."""
    page = {each["pair_id"]: each for each in Answers(reader).document()["pairs"]}
    for each in made:
        told, hinted = inspected(reader, 1, each["pair_id"])["sides"]["chosen"], each["prompt_id"] in helped
        assert (told["verdict"], told["text"], told.get("hinted", False)) == ("correct", each["chosen"], hinted)
        of_problem = problem(reader, each["prompt_id"])["rounds"][0]
        assert [p.get("hinted", False) for p in of_problem["pairs"]] == [hinted]
        chosen = [sample["sample"] for sample in of_problem["samples"] if sample["pairs"]["chosen"]]
        assert chosen == ([] if hinted else [each["chosen_sample"]])
        shown = page[each["pair_id"]]
        assert shown.get("chosen") == (each["chosen"] if hinted else None)
        assert shown["chosen_sample"] == (None if hinted else each["chosen_sample"])


def test_where_everything_is_solved_no_hint_is_needed(tmp_path: Path) -> None:
    job = project(tmp_path, skill=1.0, pairs={"rule": "correct"}, rounds=1, **IMITATE)
    run_job(job, Hinted(), "generate.hint=true", "data.hint_template='{question} Hint: {answer}'")
    assert not (tmp_path / "run/rounds/01/hinted").exists()
    assert_sound(tmp_path)


class Cramped(Hinted):
    """A context that is too short for what a part of a round adds to its prompts."""

    def tokenize(self, problems: list[Problem], plan: TokenizingPlan, output: str) -> dict[str, Any]:
        fitting = [p for p in problems if "Hint" not in p.text and "Final answer" not in p.text]
        facts = super().tokenize(fitting, plan, output)
        return facts | {"dropped": len(problems) - len(fitting)}


def test_hints_that_find_no_room_are_done_without(tmp_path: Path) -> None:
    job = project(tmp_path, skill=0.2, pairs={"rule": "correct"}, rounds=1, **IMITATE)
    said = run_job(job, Cramped(), "generate.hint=true", "data.hint_template='{question} Hint: {answer}'")
    assert any("each of 3 unsolved prompts is too long" in line for line in said)
    assert_sound(tmp_path)


def test_samples_that_find_no_room_to_be_judged_are_told(tmp_path: Path) -> None:
    job = project(tmp_path, source="judge", pairs={"rule": "best_worst"}, loss={"nll": 0})
    with pytest.raises(BadInput, match=r"round 1: no sample can be judged: with self_judge\.template around it"):
        run_job(job, Cramped())


class JudgingEngines(StandInEngines):
    """A judge that likes right answers better, wavers, and now and then forgets the score or leaves the scale."""

    def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        sample = super()._sample(prompt, index, plan)
        if "#" not in prompt["prompt_id"]:
            return sample
        question, answer = prompt["text"].split("|")
        right = answer == f"Final answer: {int(question.split()[1].rstrip('?')) + 1}"
        draw = chance(prompt["prompt_id"], index)
        score = "none" if draw < 0.1 else "7" if draw < 0.2 else str(3 + 1.5 * right + (draw > 0.6) / 2)
        return sample | {"text": f"I think so. Score: 1. No: Score: {score}"}


class JudgingGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        verdict = super()._verdict(sample, gold)
        extracted = sample["text"].rpartition("Score: ")[2]
        return verdict | {"extracted": extracted} if "Score: " in sample["text"] else verdict


class Judging(Watching):
    def engines(self, model: str, probe: Path | None = None) -> JudgingEngines:
        return JudgingEngines(self, super().engines(model).skill)

    def graders(self, settings: Any) -> JudgingGraders:
        return JudgingGraders(self)


SELF = {"source": "judge", "pairs": {"rule": "best_worst"}, "loss": {"nll": 0}}


def test_the_models_own_judgements_are_averaged_and_best_meets_worst(tmp_path: Path) -> None:
    job = project(tmp_path, rounds=1, self_judge={"template": "{prompt}|{response}", "samples": 3}, **SELF)
    workers = Judging()
    run_job(job, workers)
    judged = {r["prompt_id"]: r["text"] for r in rows(tmp_path, "rounds/01/judged/prompts")}
    samples = rows(tmp_path, "rounds/01/samples")
    assert len(judged) == len(samples) == 32
    given: dict[str, list[float]] = {name: [] for name in judged}
    for row in rows(tmp_path, "rounds/01/judged/verdicts"):
        if row["extracted"] not in ("none", "7"):
            given[row["prompt_id"]].append(float(row["extracted"]))
    scores = {(r["prompt_id"], r["sample_index"]): r["score"] for r in rows(tmp_path, "rounds/01/scores")}
    for name, values in given.items():
        prompt_id, _, index = name.rpartition("#")
        mean = sum(values) / len(values) if values else None
        assert scores[prompt_id, int(index)] == (pytest.approx(mean) if values else None)
    pairs = rows(tmp_path, "rounds/01/pairs")
    assert pairs
    for pair in pairs:
        mine = [s for (p, _), s in scores.items() if p == pair["prompt_id"] and s is not None]
        assert scores[pair["prompt_id"], pair["chosen_sample"]] == max(mine)
        assert scores[pair["prompt_id"], pair["rejected_sample"]] == min(mine) < max(mine)
    assert workers.calls["reference"] == 1
    pairing = facts(tmp_path, "rounds/01/pairs")
    assert pairing["prompts_paired"] == pairing["prompts_mixed"] == len(pairs)
    assert "pass_any" not in pairing, "that a model likes an answer does not make it right"
    assert_sound(tmp_path)


def test_a_fork_with_another_scale_pairs_anew(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1, self_judge={"template": "{prompt}|{response}"}, **SELF), Judging())
    fork(tmp_path / "run", tmp_path / "child/run", ["self_judge.highest=7"])
    workers = Judging()
    run_job(tmp_path / "child/run/job.yaml", workers)
    assert workers.calls["generate"] == 0, "the same samples, judged the same"
    scores = {(r["prompt_id"], r["sample_index"]): r["score"] for r in rows(tmp_path / "child", "rounds/01/scores")}
    pairs = rows(tmp_path / "child", "rounds/01/pairs")
    assert pairs and pairs != rows(tmp_path, "rounds/01/pairs")
    for pair in pairs:
        mine = [s for (p, _), s in scores.items() if p == pair["prompt_id"] and s is not None]
        assert scores[pair["prompt_id"], pair["chosen_sample"]] == max(mine)


def test_a_model_that_cannot_judge_is_told_from_one_that_likes_everything(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match="does not know how to judge"):
        run_job(project(tmp_path / "cannot", self_judge={"lowest": 900, "highest": 901}, **SELF), StandIns())
    with pytest.raises(NoPairs, match="samples have two different scores"):
        run_job(project(tmp_path / "likes", skill=1.0, self_judge={"template": "{prompt}|{response}"}, **SELF), Fond())


class Fond(Judging):
    def graders(self, settings: Any) -> StandInGraders:
        return FondGraders(self)


class FondGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        return super()._verdict(sample, gold) | {"extracted": "5"}


def test_a_response_that_looks_like_a_field_is_left_alone() -> None:
    filled = fill("Q: {prompt} A: {response}", prompt="what is {response}?", response="{prompt}")
    assert filled == "Q: what is {response}? A: {prompt}"


def test_pairs_against_the_scores_are_found(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1, self_judge={"template": "{prompt}|{response}"}, **SELF), Judging())
    forge(tmp_path / "run", "rounds/01/pairs/00000.parquet", swap_sides)
    found = verify(tmp_path / "run").findings
    assert any("its chosen sample has the score" in line for line in found)
    assert all(" chosen " in line or "pairs" in line for line in found), found


SPIN = {"gold_as_chosen": "only", "rejected": "any", "per_prompt": 1}


def test_gold_solutions_against_whatever_was_sampled(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1, pairs=SPIN), StandIns(), SOLVED)
    verdicts = {(r["prompt_id"], r["sample_index"]): r["verdict"] for r in rows(tmp_path, "rounds/01/verdicts")}
    pairs = rows(tmp_path, "rounds/01/pairs")
    assert {r["chosen_sample"] for r in pairs} == {None}
    assert {verdicts[r["prompt_id"], r["rejected_sample"]] for r in pairs} == {"correct", "wrong"}
    assert_sound(tmp_path)
    forge(tmp_path / "run", "rounds/01/pairs/00000.parquet", lambda table: table[0].update(chosen_sample=0))
    assert any(
        "its chosen side is sample 0, not the gold solution" in line for line in verify(tmp_path / "run").findings
    )


def trained_rounds(plan: TrainingPlan) -> Sequence[str]:
    replayed = [r["pair_id"][:2] for r in pq.read_table(plan.pairs[1]).to_pylist()] if len(plan.pairs) > 1 else []
    return sorted(set(replayed))


def test_replay_goes_back_as_far_as_it_is_told(tmp_path: Path) -> None:
    workers = Watching()
    run_job(project(tmp_path, rounds=4, skill=0.3), workers, "pairs.replay=1.0", "pairs.replay_rounds=1")
    # The files are the run's until it ends; what was trained on is read afterwards.
    assert [trained_rounds(plan) for plan in workers.plans] == [[], ["01"], ["02"], ["03"]]


def test_what_was_imitated_is_replayed_and_verifies(tmp_path: Path) -> None:
    run_job(project(tmp_path, source="gold", **IMITATE), StandIns(), SOLVED, "pairs.replay=0.5")
    assert all(r["rejected_token_ids"] is None for r in rows(tmp_path, "rounds/02/replay"))
    assert_sound(tmp_path)
    forge(tmp_path / "run", "rounds/02/replay/00000.parquet", lambda table: table[0].update(chosen_token_ids=[1]))
    assert any("is no pair of rounds/01" in line for line in verify(tmp_path / "run").findings)


def test_new_prompts_never_come_twice(tmp_path: Path) -> None:
    job = project(tmp_path)
    run_job(job, StandIns(), "data.prompts=new")
    first, second = ({r["prompt_id"] for r in rows(tmp_path, f"rounds/0{n}/prompts")} for n in (1, 2))
    assert not first & second
    with pytest.raises(BadInput, match=r"needs 24 problems for 3 rounds of 8, and data\.train has 20"):
        run_job(job, StandIns(), "data.prompts=new", "rounds=3")


def test_new_prompts_that_a_run_has_kept_are_counted_on_a_resume_too(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.claim(identity())
    data = {"train": {"hub": "some/problems", "split": "train"}, "gate": "g", "test": "t", "prompts": "new"}
    job = Job.model_validate({"name": "job", "model": "m", "rounds": 2, "data": data | {"prompts_per_round": 8}})
    problems = {"train": [Problem(str(i), f"{i}?", "1", None) for i in range(20)]}
    kept = keep_problems(run, job, job.data, problems)
    assert {split: list(rows) for split, rows in kept.items()} == problems
    with pytest.raises(BadInput, match="needs 24 problems for 3 rounds of 8"):
        keep_problems(run, job.model_copy(update={"rounds": 3}), job.data, {})


def test_a_mix_of_temperatures_is_taken_in_turn() -> None:
    plan = SamplingPlan(4, 1.0, 1.0, 0, 8, (), 0, temperature_mix=(1.0, 0.7))
    assert [plan.temperature_of(i) for i in range(4)] == [1.0, 0.7, 1.0, 0.7]
    assert SamplingPlan(4, 0.3, 1.0, 0, 8, (), 0).temperature_of(3) == 0.3
