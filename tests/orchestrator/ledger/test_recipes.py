"""Recipes of fingerprints: what a later version adds strands nobody, and what decides is taken over by no fork."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator import config
from orchestrator.commands.fork.command import fork
from orchestrator.config import Generate, Grade, Judge, Loss, Train
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput, Interrupted
from orchestrator.files import durable
from orchestrator.ledger import recipes
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.ledger.recipes import Executed, Fields, Later, Setting, Unseen, Version
from orchestrator.ledger.run import Run
from orchestrator.ledger.taken import taken
from orchestrator.records import rows as records
from orchestrator.records.abstentions import graders_version
from orchestrator.records.reasoning_steps import STEP_PROMPT, StepItem
from orchestrator.records.rows import GRADERS_VERSION, JUDGE_PROMPT, Problem, SamplingPlan, TrainingPlan
from orchestrator.records.seals import state_seal
from orchestrator.rounds import pairing
from orchestrator.rounds.training import precision
from tests.recorded_runs.record import extract, go_on, unpack
from tests.support.stand_ins import StandIns, make_project, run_job
from workers.graders.judge import compare
from workers.judge.client import JudgeClient, JudgeFailed
from workers.judge.reasoning_steps import judge_steps

PLAN = SamplingPlan(samples=4, temperature=1.0, top_p=1.0, top_k=0, max_tokens=8, stop=(), seed=1)
ANSWER: dict[str, Any] = {"graders": ["exact", "judge"]}


class NewTrain(Train):
    lora: int | None = None


class NewGrade(Grade):
    mood: str = "mild"


@dataclass(frozen=True, slots=True)
class NewProblem(Problem):
    golds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewPlan(SamplingPlan):
    mask: bool = False


def new(section: Any, kind: type, **changes: Any) -> Any:
    """The same section or plan as a later version would have it."""
    fields = section.model_fields if hasattr(section, "model_fields") else section.__dataclass_fields__
    return kind(**{name: getattr(section, name) for name in fields} | changes)


@pytest.mark.parametrize("recipe", [1, 2, 3])
@pytest.mark.parametrize(
    ("section", "kind", "changes"),
    [
        (Train(epochs=2, learning_rate=1e-6), NewTrain, {"lora": 8}),
        (Grade(strict=False), NewGrade, {"mood": "harsh"}),
        (PLAN, NewPlan, {"mask": True}),
        (Problem("a", "b", "c", None), NewProblem, {"golds": ("d",)}),
    ],
)
def test_a_field_that_comes_later_counts_only_where_it_is_set(
    recipe: int, section: Any, kind: type, changes: dict[str, Any]
) -> None:
    said, same, other = (
        recipes.fingerprints({"of": [value], "rows": recipes.Digest([value])}, recipe, None, [])
        for value in (section, new(section, kind), new(section, kind, **changes))
    )
    assert said == same != other


def test_a_later_input_counts_only_where_it_is_set() -> None:
    for recipe in (1, 2, 3, 4):
        plain, same, other = (
            recipes.fingerprints({"a": 1, **more}, recipe, None, [])
            for more in ({}, {"b": Later("x", "x")}, {"b": Later("y", "x")})
        )
        assert plain == same != other


def test_a_recipe_counts_what_it_counted() -> None:
    inputs = {"train": Fields(Train(zero=2), {"learning_rate": 1e-6}), "judge": Unseen(1), "by": Version("v", 3)}
    later = {"save_every", "save_minutes", "stall_timeout", "chunk_logits", "compile", "overlap"}
    train = Train(zero=2).model_dump(mode="json", exclude=later)
    nulls = {"ranks": 1, "tokens_per_microbatch": 4096, "activation_checkpointing": False}
    one = durable.fingerprint({"train": train | nulls | {"learning_rate": 1e-6}})
    assert recipes.fingerprints(inputs, 1, None, []) == {one}
    two = durable.fingerprint({"train": {"zero": 2, "learning_rate": 1e-6}, "judge": 1, "by": 3})
    assert recipes.fingerprints(inputs, 2, None, []) == {two}
    three = durable.fingerprint({"train": {"learning_rate": 1e-6}, "judge": 1, "by": 3})
    assert recipes.fingerprints(inputs, 3, None, []) == {recipes.fingerprint(inputs)} == {three}
    earlier = durable.fingerprint({"train": {"zero": 2, "learning_rate": 1e-6}, "judge": 1, "by": 1})
    assert recipes.fingerprints(inputs, 2, {}, []) == {earlier}, "a commit that names no version is of the first"


def test_a_rounds_loss_counts_as_when_it_was_a_plan_of_its_own() -> None:
    """Its three weights had no defaults then, so that they count at those of the section too."""
    weights = {"beta": 0.1, "dpo": 1.0, "nll": 1.0}
    rest = {"form": "sigmoid", "nll_scope": "response", "nll_normalisation": "sequence"}
    first, second = (Loss(beta=[0.1, 0.2], form=form).of_round(n) for n, form in ((1, "sigmoid"), (2, "squared")))
    assert recipes.fingerprints({"loss": first}, 1, None, []) == {durable.fingerprint({"loss": weights | rest})}
    assert recipes.fingerprint({"loss": first}) == durable.fingerprint({"loss": weights})
    assert recipes.fingerprint({"loss": second}) == durable.fingerprint(
        {"loss": weights | {"beta": 0.2, "form": "squared"}}
    )


ALL_SET: dict[str, Any] = {
    "train": Train(
        **{"ranks": 2, "zero": 3, "attention": "sdpa", "offload_optimizer": True, "tokens_per_microbatch": 64},
        **{"activation_checkpointing": True, "save_every": 3, "save_minutes": 1, "stall_timeout": 9, "epochs": 2},
        **{"chunk_logits": 5, "compile": True, "overlap": True},
    ),
    "grade": Grade(processes=2, strict=False),
    "judge": Judge(
        **{"model": "a", "base_url": "http://one/v1", "api_key_env": "KEY", "max_requests": 9, "concurrency": 2},
        **{"timeout": 9, "retries": 2, "temperature": 0.5, "max_tokens": 9},
    ),
    "engine": Setting(Generate(engine={"block_size": 32, "quantization": "fp8"}), "engine"),
    "autocast": Fields(Train(zero=0)),
}


RECIPES = {
    1: ["c10675", "a69b7f", "7d19f5", "baaf38", "16589b"],
    2: ["ea3451", "82efda", "9f426c", "baaf38", "3fd355"],
    3: ["203d3d", "82efda", "9f426c", "9d4753", "3fd355"],
    4: ["203d3d", "82efda", "9f426c", "9d4753", "3fd355"],
}
"""How the fingerprints of `ALL_SET` begin. Those of a recipe never change."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_mark_changes_no_recipe_that_was_committed_by(recipe: int) -> None:
    """Where a field is marked that was not, its mark says `since` the next recipe, which is to be made."""
    assert recipe <= recipes.RECIPE == max(RECIPES)
    found = [recipes.fingerprints({key: value}, recipe, None, []) for key, value in ALL_SET.items()]
    assert [some.pop()[:6] for some in found] == RECIPES[recipe]


def test_what_decides_of_the_engine_and_of_zero_is_counted() -> None:
    def of(**changes: Any) -> str:
        said = Generate(engine=changes.pop("engine", {}))
        return recipes.fingerprint({"train": Train(**changes), "engine": Setting(said, "engine")})

    assert recipes.fingerprint({"executed": Executed({"train.ranks": 2})}) == recipes.fingerprint({})
    assert of() == of(zero=2) == of(zero=3) == of(engine={"block_size": 32}) != of(zero=0)
    assert of(engine={"quantization": "fp8"}) == of(engine={"quantization": "fp8", "enforce_eager": True}) != of()


def test_an_earlier_recipe_takes_no_recorded_value_that_decides_otherwise() -> None:
    """ZeRO 0 computes otherwise, and no record of it stands for 1."""
    past = [{"zero": 0, "ranks": 4, "engine": {"quantization": "fp8"}}]
    train, engine = {"train": Train()}, {"engine": Setting(Generate(), "engine")}
    assert recipes.fingerprints(train, 2, None, past) == {durable.fingerprint({"train": {"ranks": 4}})}
    assert recipes.fingerprints(engine, 2, None, past) == {durable.fingerprint({"engine": {}})}


def test_defaults_are_part_of_recipes_2_and_3() -> None:
    """A default that counts as nothing must stay what it is: where one has to change, make a recipe (recipes.py)."""
    kept = json.loads((Path(__file__).parents[2] / "recorded_runs/defaults-2.json").read_text())
    now = defaults()
    assert {name: {key: now[name][key] for key in fields} for name, fields in kept.items()} == kept
    new_ones = {name: sorted(now[name].keys() - kept.get(name, {}).keys()) for name in now}
    assert not any(new_ones.values()), f"note the defaults of {new_ones} in defaults-2.json, beside the others"


def defaults() -> dict[str, dict[str, Any]]:
    """The defaults of all that recipes read field by field."""
    found = {}
    for name in recipes.FIELDS_1:
        kind: Any = next(getattr(module, name) for module in (config, records, pairing) if hasattr(module, name))
        fields = recipes.defaults_of(kind)
        found[name] = {key: repr(default) for key, default in fields if default is not recipes.NO_DEFAULT}
    return found


# Prompts of the judge


class Asked(JudgeClient):
    """Keeps a hash of what the judge would be asked, and gets no answer."""

    def __init__(self) -> None:
        super().__init__(Judge(model="a"), None)
        self.hashes: list[str] = []

    def ask_many(self, questions: Any, verdict: Any) -> Any:
        forms = [verdict] if isinstance(verdict, type) else verdict
        said = json.dumps([questions, [form.model_json_schema() for form in forms]], sort_keys=True)
        self.hashes.append(hashlib.sha256(said.encode()).hexdigest()[:12])
        return [JudgeFailed("no answer") for _ in questions]


def test_a_changed_prompt_has_another_version() -> None:
    """Raise JUDGE_PROMPT or STEP_PROMPT where what the judge is asked has changed, and note the new hash here."""
    client = Asked()
    compare(client, [("5", "6")])
    judge_steps(client, [StepItem("p", "s", "g", ("a", "b"))])
    assert (JUDGE_PROMPT, STEP_PROMPT, *client.hashes) == (1, 1, "7b73f94f0a50", "0898f8cac870")


# Resuming and forking


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract("0.1.0", tmp_path_factory.mktemp("recorded") / "0.1.0")


def state_of(run: Path) -> State:
    return Ledger(run / "ledger").state


def test_what_is_committed_names_its_recipe_and_its_graders(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, rounds=1), StandIns())
    state = state_of(tmp_path / "run")
    assert {commit.recipe for commit in state.commits.values()} == {4}
    shards = [shard.facts for step in state.shards.values() for shard in step.values()]
    assert {facts["recipe"] for facts in shards} == {4}
    for step in ("baseline/evaluation", "rounds/01/verdicts", "rounds/01/evaluation"):
        assert state.commits[step].facts["graders_version"] == GRADERS_VERSION
    assert {f.facts["graders_version"] for f in state.shards["rounds/01/verdicts"].values()} == {GRADERS_VERSION}


def test_a_fork_asks_the_judge_again_where_recipe_1_left_it_out(recorded: Path, tmp_path: Path) -> None:
    job, _ = unpack(recorded / "judged-verdicts", "train", tmp_path / "project")
    made = fork(job.parent / "run", tmp_path / "child")
    assert {"rounds/01/verdicts", "baseline/evaluation"} & made.offered.keys() == set()
    workers = StandIns()
    go_on(tmp_path / "child/job.yaml", workers)
    assert workers.calls["grade"] == 10, "two shards of the round, and of two splits of two evaluations"
    whole, _ = unpack(recorded / "judged-verdicts", "train", tmp_path / "resumed")
    workers = StandIns()
    go_on(whole, workers)
    assert workers.calls["grade"] == 5, (
        "a resume takes what it has; the base model's gate answers, for the gate, it does again"
    )
    assert "rounds/01/regraded" in state_of(whole.parent / "run").commits


@pytest.mark.parametrize(
    ("kind", "asked"), [("steps-judge", {"rounds/01/located"}), ("steps-rollouts", set()), ("judge", set())]
)
def test_a_fork_is_offered_what_no_judge_and_no_other_version_had_a_word_in(
    recorded: Path, tmp_path: Path, kind: str, asked: set[str]
) -> None:
    job, _ = unpack(recorded / kind, "train", tmp_path / "project")
    state = state_of(job.parent / "run")
    made = fork(job.parent / "run", tmp_path / "child")
    steps = {*state.commits, *state.shards}
    graded = {s for s in steps if s.endswith(("/verdicts", "/evaluation")) and "/judged/" not in s}
    assert graded and steps - made.offered.keys() == {*made.unseen} == asked | graded


def versions(run: Path) -> dict[str, int]:
    """The version of the graders by step that is theirs."""
    commits = state_of(run).commits.items()
    return {
        step: graders_version(commit.facts) for step, commit in commits if step.endswith(("/verdicts", "/evaluation"))
    }


def test_a_fork_mixes_no_versions_of_the_graders(recorded: Path, tmp_path: Path) -> None:
    job, _ = unpack(recorded / "sample", "train", tmp_path / "project")
    old, child = job.parent / "run", tmp_path / "child"
    assert set(versions(old).values()) == {1}
    made = fork(old, child, ["loss.beta=0.2"])
    assert made.fit["rounds/01/samples"] == "taken" and made.fit["rounds/01/pairs"] == "perhaps"
    assert versions(old).keys() == {*made.unseen}
    workers = StandIns()
    go_on(child / "job.yaml", workers)
    assert set(versions(child).values()) == {GRADERS_VERSION} and "rounds/02/verdicts" in versions(child)
    assert taken(state_of(child), "rounds/01/samples") and not taken(state_of(child), "rounds/01/verdicts")


def test_a_fork_that_an_earlier_version_made_takes_no_older_verdicts_either() -> None:
    """Its offers have them already."""
    inputs = {"grade": Grade(), "graders_version": Version("graders_version", 2)}
    assert not recipes.seen_by(inputs, 1) and recipes.seen_by(inputs, 2)
    assert recipes.seen_by({"reading": Version("reading", 1)}, 1), "the first version is what there was"


def test_an_offer_of_the_first_recipe_in_an_old_fork_is_not_taken_either(tmp_path: Path) -> None:
    """A fork that an earlier version made, and did not start, has the judge's steps among its offers."""
    inputs = {"grade": Grade(**ANSWER), "judge": Unseen({"settings": Judge(model="a")})}
    [fingerprint] = recipes.fingerprints(inputs, 1, None, [])
    run = Run(tmp_path / "run")
    run.claim(identity())
    offer = {"step": "rounds/01/verdicts", "index": None, "fingerprint": fingerprint, "facts": {}}
    run.append("offer", offer | {"artifacts": [], "discarded": []})
    assert run.offered("rounds/01/verdicts", None, inputs) is None
    assert run.offered("rounds/01/verdicts", None, {"grade": Grade(**ANSWER)}) is not None


def judged(folder: Path) -> Path:
    return make_project(folder, rounds=1, grade=ANSWER, judge={"model": "a", "base_url": "http://one/v1"})


def test_another_judge_judges_anew_and_another_address_does_not(tmp_path: Path) -> None:
    run_job(judged(tmp_path), StandIns())
    same = ("judge.base_url=http://two/v1", "judge.max_requests=5", "judge.timeout=5")
    for number, change in enumerate((*same, "judge.model=b", "judge.temperature=0.5", "judge.max_tokens=99")):
        child, workers = tmp_path / str(number), StandIns()
        fork(tmp_path / "run", child, [change])
        run_job(child / "job.yaml", workers)
        assert (workers.calls["grade"] == 0) == (change in same), change


def test_a_resume_takes_another_address_of_the_judge_and_no_other_judge(tmp_path: Path) -> None:
    job = judged(tmp_path)
    run_job(job, StandIns())
    workers = StandIns()
    run_job(job, workers, "judge.base_url=http://two/v1", "judge.max_requests=3", "judge.retries=1")
    assert not workers.calls
    with pytest.raises(BadInput, match=r"judge\.model: 'a' in the run, 'b' now"):
        run_job(job, StandIns(), "judge.model=b")


def test_log_probabilities_of_another_precision_are_computed_anew(tmp_path: Path) -> None:
    """With ZeRO 0 in bfloat16 a model computes in autocast; by recipe 1 a reference elsewhere did not."""
    job = make_project(tmp_path, rounds=1, train={"zero": 0})
    run_job(job, StandIns())
    fork(tmp_path / "run", tmp_path / "child", ["train.zero=1"])
    assert finish(tmp_path / "child/job.yaml")["reference"] == 1
    sections = [Train(zero=0), Train(zero=1), Train(zero=0, precision="fp32")]
    assert [recipes.seen_by(precision(train), 1) for train in sections] == [False, True, True]


def test_graders_of_another_version_are_told_by_what_is_committed() -> None:
    """Recipe 2 of the step, graded by an older version: a resume goes on, and a fork grades anew."""
    inputs = {"graders_version": Version("graders_version", 3)}
    old = recipes.fingerprint({"graders_version": Version("graders_version", 2)})
    assert old in recipes.fingerprints(inputs, 2, {"graders_version": 2}, [])
    assert old not in recipes.fingerprints(inputs, 2, None, [])


# Settings that may change at every start

LESS_MEMORY = [
    "train.tokens_per_microbatch=64",
    "train.activation_checkpointing=true",
    "train.offload_optimizer=true",
]


class Watching(StandIns):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.plans: list[TrainingPlan] = []

    def watch(self, plan: TrainingPlan) -> None:
        self.plans.append(plan)


def stop_in_training(name: str) -> None:
    if name == "train":
        raise Interrupted("SIGTERM")


def finish(job: Path, *overrides: str) -> dict[str, int]:
    workers = StandIns()
    run_job(job, workers, *overrides)
    return workers.calls


def test_a_run_goes_on_with_less_memory(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns(), "rounds=1")
    assert finish(job, *LESS_MEMORY)["train"] == 1, "the second round's alone"
    facts = [state_of(tmp_path / "run").commits[f"rounds/0{n}/train"].facts["executed"] for n in (1, 2)]
    assert [f["train.tokens_per_microbatch"] for f in facts] == [4096, 64]
    assert [f["train.activation_checkpointing"] for f in facts] == [False, True]
    assert not finish(job)


def test_a_run_of_the_first_recipe_goes_on_with_less_memory(recorded: Path, tmp_path: Path) -> None:
    job, _ = unpack(recorded / "sample", "train", tmp_path / "project")
    assert finish(job, *LESS_MEMORY)["train"] == 1


def test_a_fork_with_less_memory_takes_all_of_it(recorded: Path, tmp_path: Path) -> None:
    job, _ = unpack(recorded / "sample", "train", tmp_path / "project")
    old = job.parent / "run"
    fork(old, tmp_path / "child", LESS_MEMORY)
    with pytest.raises(Interrupted):
        run_job(tmp_path / "child/job.yaml", StandIns(on_call=stop_in_training))
    fork(tmp_path / "child", tmp_path / "grandchild", ["train.tokens_per_microbatch=32"])
    assert finish(tmp_path / "grandchild/job.yaml")["train"] == 1, "round 1's is taken over"
    commits = state_of(tmp_path / "grandchild").commits
    assert commits["rounds/01/train"].recipe == 1 and commits["rounds/02/train"].recipe == 4
    assert not finish(tmp_path / "grandchild/job.yaml", "train.tokens_per_microbatch=16")


class Saving(Watching):
    """Leaves a saved state, of which the manifest alone is there, and is interrupted; then sees what has become of it.
    Before version 0.2 a state had the name of its training as it was by that version, and one part a rank."""

    def __init__(self, earlier: bool = False) -> None:
        super().__init__()
        self.earlier, self.found = earlier, False

    def watch(self, plan: TrainingPlan) -> None:
        super().watch(plan)
        folder = Path(plan.state_dir) / "000001"
        self.found = folder.is_dir()
        if len(self.plans) > 1:
            return
        folder.mkdir(parents=True)
        name = hashlib.sha256(f"{plan.identity}\x1f1".encode()).hexdigest() if self.earlier else plan.state_name
        manifest: dict[str, Any] = {"identity": name, "files": {}}
        manifest["seal"] = state_seal(plan.state_key, manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        raise Interrupted("SIGTERM")


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.ranks=2", "train.zero=2"],
        ["train.zero=3", "train.offload_optimizer=true"],
        ["train.attention=sdpa", "generate.tensor_parallel=2", *LESS_MEMORY],
    ],
    ids=" ".join,
)
def test_a_training_that_is_executed_otherwise_goes_on_from_its_state(tmp_path: Path, overrides: list[str]) -> None:
    job, workers = make_project(tmp_path, rounds=1), Saving()
    with pytest.raises(Interrupted):
        run_job(job, workers)
    said = run_job(job, workers, *overrides)
    assert workers.found and not [line for line in said if "starts over" in line]
    assert workers.plans[0].state_name == workers.plans[1].state_name


def test_what_decides_is_part_of_a_states_name(tmp_path: Path) -> None:
    """In bfloat16 stage 0 computes otherwise than the others: it is another training."""
    names = set()
    for number, overrides in enumerate([[], ["train.zero=0"], ["train.precision=fp32"], ["loss.beta=0.7"]]):
        workers = Watching()
        run_job(make_project(tmp_path / str(number), rounds=1), workers, *overrides)
        names.add(workers.plans[0].state_name)
    assert len(names) == 4


def test_a_training_whose_state_an_earlier_version_saved_starts_over_and_says_so(tmp_path: Path) -> None:
    job, workers = make_project(tmp_path, rounds=1), Saving(earlier=True)
    with pytest.raises(Interrupted):
        run_job(job, workers)
    [line] = [line for line in run_job(job, workers) if "starts over" in line]
    assert "of an earlier version" in line
