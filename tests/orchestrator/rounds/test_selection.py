"""Which of a round's checkpoints becomes the candidate, and training again with the gate's pairs; with stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Commit, Ledger
from orchestrator.records.rows import TrainingPlan
from tests.orchestrator.test_loop import history
from tests.support.stand_ins import StandIns, make_project, run_job, skill_of

SELECT = {"eval_every": 2, "select": "best"}
RETRAIN = {"train": SELECT | {"retrain": True}, "promotion": {"rule": "always"}}


def commit_of(run: Path, step: str) -> Commit:
    return Ledger(run / "ledger").state.commits[step]


def project(folder: Path, **changes: Any) -> Path:
    return make_project(folder, rounds=1, **{"train": SELECT} | changes)


def test_the_best_checkpoint_on_the_gate_is_the_candidate_and_the_others_are_removed(tmp_path: Path) -> None:
    run_job(project(tmp_path, skill=0.3), StandIns(gain=0.1, steps=7, peak=4))
    run = tmp_path / "run"
    choice = commit_of(run, "rounds/01/choice")
    accuracies = json.loads((run / "rounds/01/choice/accuracies.json").read_text())
    assert list(accuracies) == ["000002", "000004", "000006", "000007"]
    assert choice.facts["steps"] == 4 and accuracies["000004"] == max(accuracies.values()) > accuracies["000007"]
    assert skill_of(str(run / "rounds/01/checkpoint")) == pytest.approx(0.7)
    assert not (run / "rounds/01/candidates").exists()


def test_the_last_checkpoint_is_the_candidate_unless_asked_otherwise(tmp_path: Path) -> None:
    run_job(project(tmp_path, skill=0.3, train={"eval_every": 2}), StandIns(gain=0.1, steps=5, peak=4))
    assert commit_of(tmp_path / "run", "rounds/01/choice").facts["steps"] == 5
    assert skill_of(str(tmp_path / "run/rounds/01/checkpoint")) == pytest.approx(0.6)


def test_of_equal_checkpoints_the_earliest_is_chosen(tmp_path: Path) -> None:
    run_job(project(tmp_path, skill=0.3), StandIns(gain=0.35, steps=6, peak=6))  # all are right from step 2 on
    assert commit_of(tmp_path / "run", "rounds/01/choice").facts["steps"] == 2


class Watching(StandIns):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.plans: list[TrainingPlan] = []

    def watch(self, plan: TrainingPlan) -> None:
        self.plans.append(plan)


def test_retraining_takes_the_gate_s_pairs_and_the_chosen_number_of_steps(tmp_path: Path) -> None:
    workers = Watching(gain=0.1, steps=7, peak=4)
    run_job(project(tmp_path, skill=0.3, **RETRAIN), workers)
    run = tmp_path / "run"
    first, again = workers.plans
    held_out = str(run / "rounds/01/held_out/pairs/00000.parquet")
    assert (first.steps, first.schedule_steps, first.export_every) == (None, None, 2)
    assert held_out not in first.pairs
    # The schedule is the first training's, so that the chosen number of steps means the same.
    assert (again.steps, again.schedule_steps, again.export_every) == (4, 7, None)
    assert again.pairs == (*first.pairs, held_out)
    assert (first.init, first.seed, first.loss) == (again.init, again.seed, again.loss)
    assert skill_of(str(run / "rounds/01/checkpoint")) == pytest.approx(0.7)
    assert not (run / "rounds/01/candidates").exists()


def test_retraining_without_a_pair_of_the_gate_keeps_the_choice(tmp_path: Path) -> None:
    job = project(tmp_path, skill=0.3, **RETRAIN)
    (tmp_path / "gate.jsonl").write_text(json.dumps({"id": "gate-0", "question": "gate 0?", "answer": "1"}) + "\n")
    workers = Watching(gain=0.1, steps=3, peak=1)
    run_job(job, workers, "seed=0")  # all four samples of the one gate problem are wrong
    run = tmp_path / "run"
    assert commit_of(run, "rounds/01/held_out/pairs").facts["prompts_all_wrong"] == 1
    assert len(workers.plans) == 1
    assert (run / "rounds/01/checkpoint/model.safetensors").exists()


@pytest.mark.parametrize("changes", [pytest.param({}, marks=pytest.mark.full), RETRAIN], ids=["select", "retrain"])
def test_stopped_anywhere_the_same_checkpoint_is_chosen(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"gain": 0.1, "steps": 7, "peak": 4}
    calm = make_project(tmp_path / "calm", rounds=2, **{"train": SELECT} | changes)
    run_job(calm, StandIns(**settings))
    stormy = make_project(tmp_path / "stormy", rounds=2, **{"train": SELECT} | changes)
    left = 0

    def die(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    for attempt in range(60):
        left = 2 + 2 * attempt  # an evaluation is committed as a whole, so every attempt must get further
        try:
            run_job(stormy, StandIns(**settings, on_call=die))
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("never finished")
    assert history(tmp_path / "stormy/run") == history(tmp_path / "calm/run")
    assert not list((tmp_path / "stormy/run").rglob("candidates"))


def test_a_discarded_folder_that_came_back_is_removed_again(tmp_path: Path) -> None:
    job = project(tmp_path, skill=0.3)
    run_job(job, StandIns(gain=0.1, steps=4))
    stray = tmp_path / "run/rounds/01/candidates/000002"
    stray.mkdir(parents=True)
    run_job(job, StandIns(gain=0.1, steps=4))
    assert not stray.parent.exists()


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for train, rule, said in (
        ({"select": "best"}, "always", "train: `select: best` needs `eval_every`"),
        ({"eval_every": 5, "retrain": True}, "always", "train: `retrain` needs `select: best`"),
        (RETRAIN["train"], "not_worse", "`train.retrain` trains on the gate problems"),
    ):
        job = make_project(tmp_path, train=train, promotion={"rule": rule})
        with pytest.raises(BadInput) as refused:
            load_job(job)
        assert said in str(refused.value), refused.value


class Leaving(StandIns):
    """Leaves a state of the training behind and dies, twice; then trains."""

    def watch(self, plan: TrainingPlan) -> None:
        states = Path(plan.state_dir)
        found = sorted(path.name for path in states.iterdir()) if states.is_dir() else []
        assert found == [str(i) for i in range(self.lives)]
        if self.lives < 2:
            (states / str(self.lives)).mkdir(parents=True)
            self.lives += 1
            raise KeyboardInterrupt

    lives = 0


def test_saved_states_pass_to_the_next_driver_and_go_when_the_training_is_committed(tmp_path: Path) -> None:
    job, workers = make_project(tmp_path, rounds=1), Leaving()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_job(job, workers)
        [states] = (tmp_path / "run/rounds/01").glob(".train-state-of-*")
    assert states.name == ".train-state-of-2"
    run_job(job, workers)
    assert not list((tmp_path / "run/rounds/01").glob(".*"))
