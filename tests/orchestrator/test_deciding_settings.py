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
from pydantic.fields import FieldInfo

from orchestrator.config import Job, Settings, is_executing
from orchestrator.config.engines import ENGINE
from orchestrator.config.load import changed_keys, load_job
from orchestrator.config.marks import mark_at, sections_in
from orchestrator.driver.kept import base_model_of, keep_model, keep_preferences, read_all_problems, reference_of
from orchestrator.driver.same_job import check_same_job
from orchestrator.errors import BadInput
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
    "data.tests": ("sample", "data.tests=[{name: more, path: gate2.jsonl}]"),
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
    "data.curriculum": ("sample", "data.curriculum={others: 0.3}"),
    "data.prompts_per_round": ("sample", "data.prompts_per_round=5"),
    "generate.samples": ("sample", "generate.samples=5"),
    "generate.temperature": ("sample", "generate.temperature=0.5"),
    "generate.temperature_mix": ("sample", "generate.temperature_mix=[1.0, 0.5]"),
    "generate.wave_samples": ("sample", "generate.wave_samples=2", "pairs.per_prompt=1"),
    "generate.adapt_temperature": ("sample", "generate.adapt_temperature={mixed: 0.9}"),
    "generate.hint": ("hint", "generate.hint=false"),
    "generate.top_p": ("sample", "generate.top_p=0.9"),
    "generate.top_k": ("sample", "generate.top_k=5"),
    "generate.max_tokens": ("sample", "generate.max_tokens=9"),
    "generate.stop": ("sample", "generate.stop=[x]"),
    "generate.seeding": ("sample", "generate.seeding=engine"),
    "generate.shard_prompts": ("sample", "generate.shard_prompts=3"),
    "generate.max_model_len": ("sample", "generate.max_model_len=99"),
    "generate.dtype": ("sample", "generate.dtype=bfloat16"),
    "generate.engine": ("sample", "generate.engine={enforce_eager: true, quantization: fp8}"),
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
    "steps.process": ("steps-process", "steps.process.threshold=0.6"),
    "steps.open_evaluation": ("steps-rollouts", "steps.open_evaluation=true"),
    "judge.model": ("judged-verdicts", "judge.model=another"),
    "judge.temperature": ("judged-verdicts", "judge.temperature=0.5"),
    "judge.max_tokens": ("judged-verdicts", "judge.max_tokens=9"),
    "reward.models": ("reward", "reward.models=[{model: reward, max_tokens: 40}]"),
    "reward.verdict_weight": ("reward", "reward.verdict_weight=1"),
    "reward.normalisation": ("reward", "reward.normalisation=none"),
    "self_judge.template": ("judge", "self_judge.template='{prompt}|{response} '"),
    "self_judge.pattern": ("judge", "self_judge.pattern='(\\d)'"),
    "self_judge.lowest": ("judge", "self_judge.lowest=1"),
    "self_judge.highest": ("judge", "self_judge.highest=6"),
    "self_judge.samples": ("judge", "self_judge.samples=3"),
    "self_judge.temperature": ("judge", "self_judge.temperature=0.5"),
    "self_judge.max_tokens": ("judge", "self_judge.max_tokens=9"),
    "loss.form": ("sample", "loss.form=squared"),
    "loss.beta": ("sample", "loss.beta=0.2"),
    "loss.smoothing": ("sample", "loss.smoothing=0.2"),
    "loss.penalty": ("sample", "loss.penalty=5"),
    "loss.target_margin": ("sample", "loss.target_margin=1"),
    "loss.score_scale": ("sample", "loss.score_scale=2"),
    "loss.dpo": ("sample", "loss.dpo=2"),
    "loss.nll": ("sample", "loss.nll=2"),
    "loss.nll_scope": ("sample", "loss.nll_scope=prompt+response"),
    "loss.nll_normalisation": ("sample", "loss.nll_normalisation=batch"),
    "train.zero": ("sample", "train.zero=0"),
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
    "train.export_dtype": ("sample", "train.export_dtype=float32"),
    "lora.rank": ("sample", "lora={rank: 4}"),
    "lora.alpha": ("sample", "lora={alpha: 8}"),
    "lora.targets": ("sample", "lora={targets: [q_proj]}"),
    "lora.between_rounds": ("sample", "lora={between_rounds: continue}"),
    "evaluate.max_tokens": ("sample", "evaluate.max_tokens=9"),
    "evaluate.samples": ("sample", "evaluate.samples=3"),
    "evaluate.temperature": ("sample", "evaluate.samples=3", "evaluate.temperature=0.5"),
    "evaluate.harness": ("sample", "evaluate.harness={tasks: [one]}"),  # each of its keys: rounds/test_harness.py
}
"""A kind of run in which a setting counts, and another value of it; each setting decides some step."""

DECIDED_OTHERWISE = {
    "name": ("another", "names the run"),
    "method": ("dpo", "stands for the settings of its row"),
    "data.allow_overlap": ("true", "lets a run start"),
    "evaluate.probe_tolerance": ("0.1", "stops a run, and changes no file"),
    "promotion.rule": ("better", "the gate's decision is a record of its own, which a fork does not take over"),
    "promotion.alpha": ("0.1", "as the rule"),
}
"""Settings that a run keeps and that are in no fingerprint: another value, and why."""

IN_PART: dict[str, tuple[str, ...]] = {
    "train.zero": ("train.zero=2", "train.zero=3"),
    "generate.engine": tuple(f"generate.engine={{{name}: 1}}" for name in sorted(ENGINE.executing)),
}
"""Settings of which some values decide, and others of which do not."""

NOT_TRIED = {"run_dir": "is where the run is found"}
_KIND_OF = {"regrade": "regraded", "judge": "judged-verdicts", "reward": "reward", "steps": "steps-process"}
_VALUES = {"judge.base_url": "http://elsewhere/v1", "judge.api_key_env": "KEY", "rounds": "1"}
_VALUES |= {"tracking.enabled": "true", "keep.checkpoints": "2", "cluster.interface": "ib0"}
_VALUES |= {"cluster.env": "{NCCL_DEBUG: INFO}", "cluster.secrets": "[HF_TOKEN]"}
_VALUES |= {"archive": "/archives/{name}", "tracking.sinks": "[tensorboard]"}
"""Values that no type tells of."""


def settings_of(section: type[Settings], prefix: str = "") -> Iterator[str]:
    """Every key of the job that is no section."""
    for name, info in section.file_fields().items():
        kinds = (info.annotation, *typing.get_args(info.annotation))
        below = next((k for k in kinds if isinstance(k, type) and issubclass(k, Settings)), None)
        yield from settings_of(below, f"{prefix}{name}.") if below else [prefix + name]


def fields_of(section: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the job that is no section, with its field."""
    for name, info in section.file_fields().items():
        below = list(sections_in(info.annotation))
        for found in below:
            yield from fields_of(found, f"{prefix}{name}.")
        if not below:
            yield prefix + name, info


FIELDS = dict(fields_of(Job))
EXECUTING = [key for key in FIELDS if is_executing(key) and key not in NOT_TRIED]


def value_of(key: str) -> str:
    """Another value of a setting than its default, by its type."""
    if key in _VALUES:
        return _VALUES[key]
    info, kinds = FIELDS[key], [FIELDS[key].annotation, *typing.get_args(FIELDS[key].annotation)]
    if bool in kinds:
        return str(not info.default).lower()
    if literals := [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]:
        return next(str(value) for value in typing.get_args(literals[0]) if value != info.default)
    return "text" if str in kinds else str((info.default or 0) + 1)


def test_every_setting_is_known_to_these_tests() -> None:
    """A field that has no mark decides: name here a run in which another value of it makes another step."""
    for key in FIELDS:
        parents = {".".join(key.split(".")[: n + 1]) for n in range(key.count(".") + 1)}
        mark, _ = mark_at(Job, key)
        named = ({key} if is_executing(key) else parents) & {*SETTINGS, *DECIDED_OTHERWISE}
        assert bool(named) == (not is_executing(key)), key
        assert (key in IN_PART) == (mark is not None and not mark.wholly), key


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
    problems, base = read_all_problems(file), base_model_of(file, run)
    reference = reference_of(file, run, base)
    try:
        keep_preferences(run, file, identity_of(file.job, file.find), None, problems, checked=True)
        if reference:
            keep_model(run, file.job, reference, "reference")
        improve(file.job, run, KINDS["sample"].workers(), problems, keep_model(run, file.job, base), lambda _: None)
    except Another as step:
        return str(step)
    return None


def _with_options(file: Path) -> None:
    """A column that nothing has read, for `data.choices`. The number of an option is not another one's text."""
    if file.exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row | {"options": sorted([row["answer"], "none"], reverse=row["answer"] == "1")} for row in rows]
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


def binds(job: Path, *overrides: str) -> bool:
    """Whether the run of a job refuses to go on with these."""
    now = load_job(job, overrides).job
    try:
        check_same_job(Run(job.parent / "run"), now)
    except BadInput:
        return True
    return False


@pytest.mark.parametrize("key", [*DECIDED_OTHERWISE, "train.zero", "generate.engine", "loss.beta", "train.precision"])
def test_a_setting_that_decides_binds_its_run(finished: Callable[[str], Path], key: str) -> None:
    overrides = SETTINGS[key][1:] if key in SETTINGS else [f"{key}={DECIDED_OTHERWISE[key][0]}"]
    assert binds(finished("sample"), *overrides)


@pytest.mark.parametrize("key", EXECUTING)
def test_a_setting_of_how_the_work_is_executed_is_in_none(finished: Callable[[str], Path], key: str) -> None:
    job = finished(_KIND_OF.get(key.partition(".")[0], "sample"))
    override = f"{key}={value_of(key)}"
    before, now = (load_job(job, some).job.model_dump(mode="json") for some in ([], [override]))
    assert changed_keys(before, now), "this is no other value"
    assert another(job, override) is None and not binds(job, override)


@pytest.mark.parametrize(("key", "override"), [(key, override) for key, some in IN_PART.items() for override in some])
def test_values_that_only_execute_are_in_none(finished: Callable[[str], Path], key: str, override: str) -> None:
    assert another(finished("sample"), override) is None and not binds(finished("sample"), override)
