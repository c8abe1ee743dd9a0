"""The smallest job of each source, of two rounds or stages, and the hand-written workers that serve it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Judge
from orchestrator.records.reasoning_steps import StepItem, StepJudgement
from orchestrator.sources.steps.people import VerdictsNeeded
from tests.faults.children import Kind, TrainersWithState, Workers, small_project
from tests.orchestrator.sources.test_sources import SELF, Hinted, Judging
from tests.orchestrator.sources.test_step_dpo import judge
from tests.support.judge_server import serve
from tests.support.preference_stand_ins import PreferenceStandIns, PreferenceTrainers, make_stages, pair, right, wrong
from tests.support.stand_ins import StandIns, make_model, make_reward_model, run_job
from tests.support.step_stand_ins import STEPS, StepStandIns, first_slip
from workers.judge.client import JudgeClient

DATA = {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts": "split", "prompts_per_round": 6}
PLAIN: dict[str, Any] = {"pairs": {}, "train": {}, "data": DATA}
"""The job of `children`, without what the source `sample` alone has: replay, a choice of checkpoints, retraining."""


# Steps: rollouts, a judge, people


class StepWorkers(Workers, StepStandIns):
    pass


class JudgedStepWorkers(StepWorkers):
    """Asks a judge of its own, one question after the other, so that a crash meets the same one each time."""

    def judge_steps(self, items: Sequence[StepItem]) -> tuple[list[StepJudgement], dict[str, Any]]:
        with serve(judge) as server:
            settings = Judge(model="judge-1", base_url=server.address, concurrency=1, retries=0)
            self.client = JudgeClient(settings, self.case.run / "judge", pause=0.001)
            return super().judge_steps(items)


def requests_of(run: Path) -> int:
    """How often a run has asked its judge."""
    return (run / "judge/requests").stat().st_size


class PeoplesStepWorkers(StepWorkers):
    """People come with their verdicts whenever the run has ended for want of them."""

    def drive(self) -> None:
        while True:
            try:
                return super().drive()
            except VerdictsNeeded:
                answer_all(self.case.run)


def answer_all(run: Path) -> None:
    """Write the verdicts on the newest questions of a run; the first answer has no wrong step."""
    questions = max(run.glob("rounds/*/questions/00000.jsonl"))
    lines = []
    for number, line in enumerate(questions.read_text().splitlines()):
        question = json.loads(line)
        steps = "".join(f"\nStep {step['number']}: {step['text']}" for step in question["steps"])
        lines.append({"id": question["id"], "first_wrong": first_slip(steps) if number else None})
    file = verdicts_of(run, int(questions.parts[-3]))
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def verdicts_of(run: Path, number: int) -> Path:
    """Where people write."""
    return run / f"verdicts/round-{number:02d}.jsonl"


def steps_project(folder: Path, **steps: Any) -> Path:
    steps = STEPS | {"rollouts": 2, "rectifications": 4} | steps
    generate = {"samples": 2, "max_tokens": 400, "shard_prompts": 4}
    asked = {"judge": {"model": "judge-1", "base_url": "http://127.0.0.1:9/v1"}} if "judge" in steps.values() else {}
    changes = {"generate": generate, "pairs": {"replay": 0.5}}
    return small_project(folder, method="step_dpo", steps=steps, **PLAIN | changes, **asked)


def judged_project(folder: Path) -> Path:
    return steps_project(folder, localiser="judge", filter="judge")


def process_project(folder: Path) -> Path:
    make_reward_model(folder / "process")
    return steps_project(folder, localiser="process", process={"model": "process", "max_tokens": 90})


def peoples_project(folder: Path) -> Path:
    return steps_project(folder, localiser="file")


# Preference data


class PreferenceWorkers(Workers, PreferenceStandIns):
    def trainers(self) -> PreferenceTrainersWithState:
        return PreferenceTrainersWithState(self)


class PreferenceTrainersWithState(TrainersWithState, PreferenceTrainers):
    pass


def stages_project(folder: Path) -> Path:
    """Two stages from another run's checkpoint, the easier one given last. Of the harder one the reference knows two
    pairs, one by the stage before and one by that other run; they are left out."""
    small_project(folder)
    (folder / "first").mkdir()
    run_job(make_stages(folder / "first", {"known": right("k", 2)}), PreferenceStandIns())
    sources = {"hard": [*wrong("h", 4), pair("e 1?", "1", "3"), pair("k 1?", "1", "3")], "easy": right("e", 4)}
    data = {"gate": "gate.jsonl", "test": "test.jsonl"}
    model = f"run:{folder / 'first/run'}@round1"
    return make_stages(folder, sources, {"drop_seen": True}, data=data, promotion={"rule": "always"}, model=model)


# The model as its judge, gold solutions, hints


class JudgingWorkers(Workers, Judging):
    pass


def judging_project(folder: Path) -> Path:
    """From another run's checkpoint, with a fixed reference and two temperatures."""
    make_model(folder / "ref", 0.75)
    run_job(small_project(folder / "first", rounds=1), StandIns())
    models = {"model": f"run:{folder / 'first/run'}@round1", "reference": "ref"}
    settings = {"self_judge": {"template": "{prompt}|{response}", "samples": 2}}
    generate = {"samples": 2, "max_tokens": 8, "shard_prompts": 3, "temperature_mix": [1.0, 0.7]}
    return small_project(folder, **PLAIN | SELF | {"generate": generate} | settings | models)


def solved_project(folder: Path, **changes: Any) -> Path:
    """A project whose problems have worked solutions."""
    job = small_project(folder, **PLAIN | {"data": DATA | {"solution": "solution"}} | changes)
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        solved = [row | {"solution": f"worked\nFinal answer: {row['answer']}"} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in solved))
    return job


def gold_project(folder: Path) -> Path:
    return solved_project(folder, method="sft", init="previous")


class HintedWorkers(Workers, Hinted):
    pass


def star_project(folder: Path) -> Path:
    """With hints, and the pairs of the last round again."""
    data = DATA | {"hint_template": "{question} Hint: {answer}"}
    pairs = {"rule": "correct", "replay": 0.5, "replay_rounds": 1}
    return small_project(folder, **PLAIN | {"method": "star", "data": data, "pairs": pairs})


def waves_project(folder: Path) -> Path:
    """Samples in waves, and a temperature that follows what became of them."""
    generate = {"samples": 4, "max_tokens": 8, "shard_prompts": 3, "wave_samples": 2}
    adapt = {"adapt_temperature": {"mixed": 0.9, "step": 0.2}}
    return small_project(folder, **PLAIN | {"generate": generate | adapt, "pairs": {"per_prompt": 1}})


def rewards_project(folder: Path) -> Path:
    """Samples scored by two reward models; every other prompt has no gold answer."""
    models = [{"model": "reward"}, {"model": "style", "weight": 0.3, "max_tokens": 38}]
    pairs = {"rule": "best_worst", "replay": 0.5}
    job = small_project(folder, **PLAIN | {"reward": {"models": models}, "pairs": pairs, "loss": {"nll": 0}})
    for model in models:
        make_reward_model(folder / str(model["model"]))
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [row | ({} if number % 2 else {"answer": None}) for number, row in enumerate(rows)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return job


def curriculum_project(folder: Path) -> Path:
    """Prompts drawn by their pass rates, and each model asked the tasks of a harness."""
    generate = {"samples": 4, "max_tokens": 8, "shard_prompts": 3}
    curriculum = {"curriculum": {"lowest": 0.3, "highest": 0.8, "others": 0.3}}
    evaluate = {"harness": {"tasks": ["arc"]}}
    return small_project(folder, **PLAIN | {"generate": generate, "data": DATA | curriculum, "evaluate": evaluate})


SAMPLE = "sample"
KINDS = {
    SAMPLE: Kind(small_project, half=("train", 3)),
    "steps": Kind(steps_project, StepWorkers),
    "steps, judge": Kind(judged_project, JudgedStepWorkers),
    "steps, process": Kind(process_project, StepWorkers),
    "steps, people": Kind(peoples_project, PeoplesStepWorkers),
    "dataset": Kind(stages_project, PreferenceWorkers),
    "judge": Kind(judging_project, JudgingWorkers),
    "gold": Kind(gold_project),
    "hints": Kind(star_project, HintedWorkers),
    "waves": Kind(waves_project),
    "rewards": Kind(rewards_project),
    "curriculum": Kind(curriculum_project),
}
