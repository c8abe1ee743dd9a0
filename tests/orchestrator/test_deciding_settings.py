"""Every setting that can change a result is in the fingerprint of some step, and none that cannot.

A finished run is gone through again with one setting changed, up to the first step that would be another. Nothing is
done again.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.config import Job, is_harmless
from orchestrator.config.load import load_job
from orchestrator.driver.kept import keep_model, keep_preferences, read_all_problems, reference_of, seed_of
from orchestrator.inputs.preferences import identity_of
from orchestrator.ledger import recipes
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.run import Facts, Run
from orchestrator.loop import improve
from tests.recorded_runs.record import KINDS, go_on
from tests.support.stand_ins import make_model

SETTINGS: dict[str, tuple[str, ...]] = {
    "source": ("judge", "source=sample"),
    "seed": ("sample", "seed=9"),
    "model": ("sample", "model=other"),
    "init": ("sample", "init=base"),
    "reference": ("sample", "reference=base"),
    "data.train": ("sample", "data.train=gate2.jsonl"),
    "data.gate": ("sample", "data.gate=gate2.jsonl"),
    "data.test": ("sample", "data.test=gate2.jsonl"),
    "data.id": ("sample", "data.id=null"),
    "data.answer": ("sample", "data.answer=question"),
    "data.answer_marker": ("gold", "data.answer=solution", "data.answer_marker=answer"),
    "data.choices": ("sample", "data.choices=options"),
    "data.date": ("sample", "data.date=2026-11-01"),
    "data.solution": ("gold", "data.solution=question"),
    "data.solution_strip": ("gold", "data.solution_strip=[w]"),
    "data.solution_template": ("gold", "data.solution_template='So {solution}'"),
    "data.template": ("sample", "data.template='Q {question}'"),
    "data.hint_template": ("hint", "data.hint_template='{question} Tip {answer}'"),
    "data.chat": ("sample", "data.chat=true"),
    "data.system": ("sample", "data.chat=true", "data.system=Be brief"),
    "data.examples": ("sample", "data.examples=[{prompt: a, completion: b}]"),
    "data.example_separator": ("sample", "data.example_separator=' '"),
    "data.prompts": ("sample", "data.prompts=same"),
    "data.prompts_per_round": ("sample", "data.prompts_per_round=5"),
    "generate.samples": ("sample", "generate.samples=5"),
    "generate.temperature": ("sample", "generate.temperature=0.5"),
    "generate.temperature_mix": ("sample", "generate.temperature_mix=[1.0, 0.5]"),
    "generate.hint": ("hint", "generate.hint=false"),
    "generate.top_p": ("sample", "generate.top_p=0.9"),
    "generate.top_k": ("sample", "generate.top_k=5"),
    "generate.max_tokens": ("sample", "generate.max_tokens=9"),
    "generate.stop": ("sample", "generate.stop=[x]"),
    "generate.seeding": ("sample", "generate.seeding=engine"),
    "generate.shard_prompts": ("sample", "generate.shard_prompts=3"),
    "generate.max_model_len": ("sample", "generate.max_model_len=99"),
    "generate.engine": ("sample", "generate.engine={enforce_eager: true}"),
    "grade.graders": ("sample", "grade.graders=[exact]"),
    "grade.answer": ("sample", "grade.answer=[whole]"),
    "grade.strict": ("sample", "grade.strict=false"),
    "grade.thoughts": ("sample", "grade.thoughts=[]"),
    "grade.unreadable": ("sample", "grade.unreadable=wrong"),
    "grade.audit": ("sample", "grade.audit=true"),
    "grade.timeout": ("sample", "grade.timeout=6"),
    "grade.memory": ("sample", "grade.memory=2"),
    "grade.max_characters": ("sample", "grade.max_characters=100"),
    "regrade.round": ("regraded", "regrade.round=1"),
    "regrade.grade": ("regraded", "regrade.grade.strict=true"),
    "pairs.rule": ("sample", "pairs.rule=longest_correct"),
    "pairs.per_prompt": ("sample", "pairs.per_prompt=3"),
    "pairs.margin": ("sample", "pairs.margin=0.5"),
    "pairs.gold_as_chosen": ("gold", "pairs.gold_as_chosen=true"),
    "pairs.rejected": ("gold", "pairs.gold_as_chosen=only", "pairs.rejected=any"),
    "pairs.distinct": ("sample", "pairs.distinct=text"),
    "pairs.max_pairs": ("sample", "pairs.max_pairs=3"),
    "pairs.replay": ("sample", "pairs.replay=0.6"),
    "pairs.replay_rounds": ("replayed", "pairs.replay_rounds=1"),
    "pairs.append_eos": ("dataset", "pairs.append_eos=false"),
    "stages.sources": ("dataset", "stages.sources=[{path: hard.jsonl, limit: 2}, mixed.jsonl]"),
    "stages.template": ("dataset", "stages.template='{prompt} '"),
    "stages.split": ("dataset", "stages.sources=[hard.jsonl]", "stages.split=2"),
    "stages.order": ("dataset", "stages.order=given"),
    "stages.drop_seen": ("dataset", "stages.drop_seen=true"),
    "steps.opening": ("steps-rollouts", "steps.opening='Step 1:'"),
    "steps.split": ("steps-rollouts", "steps.split=lines"),
    "steps.localiser": ("steps-rollouts", "steps.localiser=file"),
    "steps.rollouts": ("steps-rollouts", "steps.rollouts=7"),
    "steps.threshold": ("steps-rollouts", "steps.threshold=0.5"),
    "steps.rectifications": ("steps-rollouts", "steps.rectifications=11"),
    "steps.filter": ("steps-judge", "steps.filter=judge"),
    "steps.verdicts": ("steps-file", "steps.verdicts=other.jsonl"),
    "steps.open_evaluation": ("steps-rollouts", "steps.open_evaluation=true"),
    "judge.model": ("judged-verdicts", "judge.model=another"),
    "judge.temperature": ("judged-verdicts", "judge.temperature=0.5"),
    "judge.max_tokens": ("judged-verdicts", "judge.max_tokens=9"),
    "self_judge.template": ("judge", "self_judge.template='{prompt}|{response} '"),
    "self_judge.pattern": ("judge", "self_judge.pattern='(\\d)'"),
    "self_judge.lowest": ("judge", "self_judge.lowest=1"),
    "self_judge.highest": ("judge", "self_judge.highest=6"),
    "self_judge.samples": ("judge", "self_judge.samples=3"),
    "self_judge.temperature": ("judge", "self_judge.temperature=0.5"),
    "self_judge.max_tokens": ("judge", "self_judge.max_tokens=9"),
    "loss.form": ("sample", "loss.form=squared"),
    "loss.beta": ("sample", "loss.beta=0.2"),
    "loss.dpo": ("sample", "loss.dpo=2"),
    "loss.nll": ("sample", "loss.nll=2"),
    "loss.nll_scope": ("sample", "loss.nll_scope=prompt+response"),
    "loss.nll_normalisation": ("sample", "loss.nll_normalisation=batch"),
    "train.ranks": ("sample", "train.ranks=2"),
    "train.zero": ("sample", "train.zero=2"),
    "train.precision": ("sample", "train.precision=fp32"),
    "train.learning_rate": ("sample", "train.learning_rate=[7e-7, 1e-6]"),
    "train.schedule": ("sample", "train.schedule=cosine"),
    "train.warmup_steps": ("sample", "train.warmup_steps=1"),
    "train.warmup_ratio": ("sample", "train.warmup_ratio=0.1"),
    "train.final_ratio": ("sample", "train.final_ratio=0.1"),
    "train.batch_pairs": ("sample", "train.batch_pairs=8"),
    "train.epochs": ("sample", "train.epochs=2"),
    "train.token_budget": ("sample", "train.token_budget=99"),
    "train.max_steps": ("sample", "train.max_steps=9"),
    "train.eval_every": ("sample", "train.eval_every=1"),
    "train.select": ("selection", "train.select=last", "train.retrain=false"),
    "train.retrain": ("selection", "train.retrain=false"),
    "train.order": ("sample", "train.order=prompts"),
    "train.weight_decay": ("sample", "train.weight_decay=0.1"),
    "train.betas": ("sample", "train.betas=[0.9, 0.95]"),
    "train.epsilon": ("sample", "train.epsilon=1e-7"),
    "train.max_grad_norm": ("sample", "train.max_grad_norm=2"),
    "train.max_tokens": ("sample", "train.max_tokens=99"),
    "train.attention": ("sample", "train.attention=sdpa"),
    "train.export_dtype": ("sample", "train.export_dtype=float32"),
    "evaluate.max_tokens": ("sample", "evaluate.max_tokens=9"),
}
"""A kind of run in which a setting counts, and another value of it; each setting decides some step."""

DECIDED_OTHERWISE = {
    "name": "names the run",
    "method": "stands for the settings of its row",
    "data.allow_overlap": "lets a run start",
    "evaluate.probe_tolerance": "stops a run, and changes no file",
    "promotion.rule": "the gate's decision is a record of its own, which a fork does not take over",
    "promotion.alpha": "as the rule",
    "generate.tensor_parallel": "how it is executed; a run keeps it",
}
"""Settings that a run keeps and that are in no fingerprint, and why."""

EXECUTING: dict[str, tuple[str, ...]] = {
    "train.tokens_per_microbatch": ("sample", "train.tokens_per_microbatch=64"),
    "train.activation_checkpointing": ("sample", "train.activation_checkpointing=true"),
    "train.offload_optimizer": ("sample", "train.offload_optimizer=true"),
    "train.save_every": ("sample", "train.save_every=1"),
    "train.save_minutes": ("sample", "train.save_minutes=1"),
    "train.stall_timeout": ("sample", "train.stall_timeout=9"),
    "grade.processes": ("sample", "grade.processes=1"),
    "regrade.grade.processes": ("regraded", "regrade.grade.processes=1"),
    "judge.base_url": ("judged-verdicts", "judge.base_url=http://elsewhere/v1"),
    "judge.api_key_env": ("judged-verdicts", "judge.api_key_env=KEY"),
    "judge.max_requests": ("judged-verdicts", "judge.max_requests=9"),
    "judge.concurrency": ("judged-verdicts", "judge.concurrency=1"),
    "judge.timeout": ("judged-verdicts", "judge.timeout=9"),
    "judge.retries": ("judged-verdicts", "judge.retries=1"),
    "generate.engines": ("sample", "generate.engines=2"),
    "generate.max_num_seqs": ("sample", "generate.max_num_seqs=2"),
    "generate.start_timeout": ("sample", "generate.start_timeout=9"),
    "generate.stall_timeout": ("sample", "generate.stall_timeout=9"),
    "keep.checkpoints": ("sample", "keep.checkpoints=2"),
    "keep.training_states": ("sample", "keep.training_states=0"),
}
OF_THE_MACHINE = ("rounds", "run_dir", "cluster", "tracking")


def settings_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the job that is no section."""
    for name, info in section.model_fields.items():
        kinds = (info.annotation, *typing.get_args(info.annotation))
        below = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        yield from settings_of(below, f"{prefix}{name}.") if below else [prefix + name]


def test_every_setting_is_known_to_these_tests() -> None:
    known = {*SETTINGS, *DECIDED_OTHERWISE, *EXECUTING}
    for key in settings_of(Job):
        parents = [".".join(key.split(".")[: n + 1]) for n in range(key.count(".") + 1)]
        said = known.intersection(parents) or set(OF_THE_MACHINE).intersection(parents)
        assert said, f"{key}: say here which step it decides, or that it decides none"
        assert is_harmless(key) == (key in EXECUTING or parents[0] in OF_THE_MACHINE), key


class Another(Exception):
    """A step that the run has not done, or from other inputs."""


class Finished(Run):
    """Goes through what is committed, and does nothing."""

    def step(
        self, name: str, inputs: recipes.Inputs, work: Callable[..., Facts], *outputs: Any, **named: Any
    ) -> Commit:
        if self.committed(name) is None:
            raise Another(name)
        return super().step(name, inputs, work, *outputs, **named)

    def _same_inputs(
        self, name: str, inputs: recipes.Inputs, committed: str, recipe: int, facts: Mapping[str, Any]
    ) -> None:
        if committed not in self.fingerprints(inputs, recipe, facts):
            raise Another(name)


def another(job: Path, *overrides: str) -> str | None:
    """The first step that the job with these overrides would not find in the finished run."""
    file, run = load_job(job, overrides), Finished(job.parent / "run")
    # What a driver asks before its claim, and again before each use of the model, is not asked here.
    run.ledger.state.configs[-1].pop("model_digest", None)
    problems, seed = read_all_problems(file), seed_of(file, run)
    reference = reference_of(file, run, seed)
    try:
        keep_preferences(run, file, identity_of(file.job, file.find), None, problems, checked=True)
        if reference:
            keep_model(run, file.job, reference, "reference")
        improve(file.job, run, KINDS["sample"].workers(), problems, keep_model(run, file.job, seed), lambda _: None)
    except Another as step:
        return str(step)
    return None


def _with_options(file: Path) -> None:
    """A column that nothing has read, for `data.choices`."""
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row | {"options": [row["answer"], "none"]} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The job of a finished run of a kind."""
    jobs: dict[str, Path] = {}

    def job_of(kind: str) -> Path:
        if kind not in jobs:
            folder, made = tmp_path_factory.mktemp(kind), KINDS["sample" if kind == "replayed" else kind]
            job = made.make(folder)
            if kind == "replayed":
                job.write_text(job.read_text().replace("rounds: 2", "rounds: 3"))
            go_on(job, made.workers())
            make_model(folder / "other", 0.9)
            rows = [{"id": f"g{i}", "question": f"new {i}?", "answer": str(i + 1)} for i in range(8)]
            for split in ("train", "gate", "test"):
                _with_options(folder / f"{split}.jsonl")
            (folder / "gate2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            jobs[kind] = job
        return jobs[kind]

    return job_of


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_decides_is_in_a_fingerprint(finished: Callable[[str], Path], key: str) -> None:
    kind, *overrides = SETTINGS[key]
    assert another(finished(kind), *overrides)


@pytest.mark.parametrize("key", EXECUTING)
def test_a_setting_of_how_the_work_is_executed_is_in_none(finished: Callable[[str], Path], key: str) -> None:
    kind, *overrides = EXECUTING[key]
    assert another(finished(kind), *overrides) is None
