"""Pairs of single reasoning steps (Step-DPO, arXiv 2406.18629, section 3.2).

    samples     N answers a problem, opened with "Let's think step by step.\\nStep 1:", and their verdicts
    errors      those with a wrong final answer
    located     the first wrong reasoning step of each: by rollouts (rollouts.py), a judge (judging.py), people
                (people.py), or a reward model for steps (process.py)
    rectified   continuations of the right steps before it that reach the gold answer
    pairs       the wrong step against a right one in its place

Each line is a step of the run. What is drawn on the way (search/01, rectification/12) is sampled and graded as a
round's own samples are, shard by shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from orchestrator.config import Steps
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import Unseen
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.rounds.context import Model
from orchestrator.rounds.pairing import PairingPlan, random_subset
from orchestrator.rounds.round import NoPairs, Round
from orchestrator.sources.steps import files as step_files
from orchestrator.sources.steps import judging, people, process
from orchestrator.sources.steps.pairing import Continuation, Error, StepPair, pairs_of_problem
from orchestrator.sources.steps.rollouts import Located, Rollouts, locate, rectifications
from orchestrator.text.counts import many

_Find = Callable[[], Located]

FILE = "00000.parquet"
REFUSALS = ("not_rectified", "not_a_prefix", "empty", "equal", "duplicate", "lucky", "unjudged")


def collect(round_: Round, sampled_from: Model) -> Commit:
    """The round's pairs of reasoning steps, from answers of `sampled_from`.

    Raises:
        NoPairs: no answer is wrong, or no wrong step could be put right.
        VerdictsNeeded: with `steps.localiser: file`, people have to say first which steps are wrong.
        BadInput: their file is not as it must be.
    """
    context, settings = round_.context, Steps.of(round_.context.job)
    opened = context.tokenize(f"{round_.folder}/prompts", {round_.split: round_.problems()}, opening=settings.opening)
    rollouts = Rollouts(round_, sampled_from, opened, round_.samples_and_verdicts(opened, sampled_from))
    commit = _collect_errors(round_, rollouts)
    with context.run.using(files_of(commit)):
        errors = step_files.read_errors(context.run.path(f"{commit.step}/{FILE}"), settings.opening, settings.split)
    first_wrong = _locate(round_, errors, commit, rollouts)
    wrong = first_errors(errors, first_wrong)
    continuations = _rectify(round_, wrong, commit, rollouts)
    return _pair(round_, wrong, continuations, rollouts)


def _collect_errors(round_: Round, rollouts: Rollouts) -> Commit:
    """Finished answers that are wrong, each once; what is truncated or ungradable is none."""
    own = rollouts.passes[0]

    def work(folder: Path) -> Facts:
        return step_files.write_errors(own, lambda *files: _decode(round_, *files), folder)

    inputs = {"graded": rollouts.files[0]}
    commit = round_.context.run.step(f"{round_.folder}/errors", inputs, work, also=[round_.context.base_files])
    facts = commit.facts
    repeated = f", {facts['repeated']} more are the same" if facts["repeated"] else ""
    round_.say("errors", f"{many(facts['errors'], 'wrong answer')}{repeated}")
    if not facts["errors"]:
        raise NoPairs(
            f"round {round_.number} gives no pairs: none of its samples is wrong. Use harder prompts, a higher "
            "temperature, or more samples."
        )
    return commit


def _decode(round_: Round, source: Path, output: Path) -> None:
    round_.context.workers.token_ends(round_.context.base_model, str(source), str(output))


def _locate(round_: Round, errors: Sequence[Error], commit: Commit, rollouts: Rollouts) -> Mapping[str, int | None]:
    """The first wrong step by error, committed whoever has found it."""
    settings = Steps.of(round_.context.job)
    inputs: dict[str, Any] = {"errors": files_of(commit), "split": settings.split, "localiser": settings.localiser}
    inputs["graded"] = rollouts.files[0]
    if settings.localiser == "rollouts":
        found = locate(round_, errors, commit, rollouts)
        inputs |= {"drawn": rollouts.files, "threshold": settings.threshold}
        done = _located(round_, errors, inputs, lambda: found)
        facts = done.facts
        spent = f"{facts['probes']} prefixes in {facts['levels']} passes, {facts['rollout_tokens']:,} tokens"
        round_.say("located", f"{_located_line(facts)}; {spent}{_unknown(facts)}")
    elif settings.localiser == "judge":
        inputs |= {"judge": judging.settings(round_)}
        done = _located(round_, errors, inputs, lambda: judging.locate(round_, errors))
        round_.say("located", f"{_located_line(done.facts)}; {many(done.facts['judge']['requests'], 'request')}")
    elif settings.localiser == "process":
        scored, threshold = process.step_rewards(round_, errors, commit), process.settings_of(round_).threshold
        files = [round_.context.run.path(f"{scored.step}/{name}") for a in scored.artifacts for name in sorted(a.files)]
        inputs |= {"rewards": files_of(scored), "threshold": threshold}
        find = lambda: Located(process.first_wrong(files, errors, threshold), {})  # noqa: E731
        done = _located(round_, errors, inputs, find)
        round_.say("located", _located_line(done.facts))
    else:
        asked = _ask_people(round_, errors, commit)
        inputs |= {"verdicts": settings.verdicts}
        done = _located(round_, errors, inputs, lambda: _by_people(round_, errors, asked))
        round_.say("located", _located_line(done.facts))
    with round_.context.run.using(files_of(done)):
        return step_files.read_located(round_.context.run.path(f"{done.step}/{FILE}"))


def _located(round_: Round, errors: Sequence[Error], inputs: Mapping[str, object], find: _Find) -> Commit:
    def work(folder: Path) -> Facts:
        found = find()
        folder.mkdir()
        step_files.write_located(found.first_wrong, folder / FILE)
        return located_facts(errors, found.first_wrong) | found.facts

    return round_.context.run.step(f"{round_.folder}/located", inputs, work)


def located_facts(errors: Sequence[Error], first_wrong: Mapping[str, int | None]) -> Facts:
    """What was found, whoever has looked for it."""
    steps = [step for step in first_wrong.values() if step is not None]
    return {
        "errors": len(errors),
        "steps": sum(len(error.answer.steps) for error in errors),
        "located": len(steps),
        "first_step": steps.count(1),
        "none_wrong": len(first_wrong) - len(steps),
        "undecided": len(errors) - len(first_wrong),
    }


def first_errors(errors: Sequence[Error], first_wrong: Mapping[str, int | None]) -> list[tuple[Error, int]]:
    """The errors whose first wrong step is known, with that."""
    return [(error, step) for error in errors if (step := first_wrong.get(error.error_id)) is not None]


def last_right(wrong: Sequence[tuple[Error, int]]) -> set[str]:
    """Names of the prefixes that end before the first wrong steps."""
    return {error.probe_id(first_wrong - 1) for error, first_wrong in wrong}


def _unknown(facts: Facts) -> str:
    """How many prefixes the search has passed over; nothing is said of that where there are none."""
    count = facts.get("probes_unknown")
    return (
        f"; {many(count, 'prefix', 'prefixes')} left out, since most of their rollouts are ungradable" if count else ""
    )


def _located_line(facts: Facts) -> str:
    rest = [(facts["none_wrong"], "have no wrong step"), (facts["undecided"], "could not be judged")]
    others = "".join(f", {count} {what}" for count, what in rest if count)
    return (
        f"the first wrong step of {facts['located']} of {facts['errors']} answers with {facts['steps']} steps{others}"
    )


def _ask_people(round_: Round, errors: Sequence[Error], commit: Commit) -> Commit:
    problems = {problem.prompt_id: problem for problem in round_.problems()}

    def work(folder: Path) -> Facts:
        folder.mkdir()
        return {"questions": people.write_questions(errors, problems, folder / "00000.jsonl")}

    inputs = {"errors": files_of(commit), "split": Steps.of(round_.context.job).split}
    return round_.context.run.step(f"{round_.folder}/questions", inputs, work)


def _by_people(round_: Round, errors: Sequence[Error], asked: Commit) -> Located:
    run, settings = round_.context.run, Steps.of(round_.context.job)
    file = run.path(settings.verdicts or f"verdicts/round-{round_.number:02d}.jsonl")
    return Located(people.read_verdicts(file, run.path(f"{asked.step}/00000.jsonl"), errors), {})


def _rectify(
    round_: Round, wrong: Sequence[tuple[Error, int]], commit: Commit, rollouts: Rollouts
) -> Mapping[str, list[Continuation]]:
    """Continuations of the right steps that reach the gold answer, by the name of their prefix. Those that the search
    has drawn are among them."""
    run, wanted = round_.context.run, Steps.of(round_.context.job).rectifications
    for lacking, prefixes in rectifications(wrong, rollouts.tallies, wanted).items():
        rollouts.draw(f"rectification/{lacking:02d}", prefixes, lacking, commit)
    names = last_right(wrong)

    def work(folder: Path) -> Facts:
        step_files.write_continuations(rollouts.passes, names, lambda *files: _decode(round_, *files), folder)
        return step_files.continuation_facts(folder / FILE, names, rollouts.tallies)

    inputs = {"drawn": rollouts.files, "prefixes": sorted(names)}
    done = run.step(f"{round_.folder}/rectified", inputs, work, also=[round_.context.base_files])
    facts = done.facts
    right = f"{facts['continuations']} of {facts['drawn']} continuations"
    round_.say("rectified", f"{right} of {facts['prefixes']} prefixes reach the gold answer")
    with run.using(files_of(done)):
        return step_files.read_continuations(run.path(f"{done.step}/{FILE}"))


def _pair(
    round_: Round,
    wrong: Sequence[tuple[Error, int]],
    continuations: Mapping[str, Sequence[Continuation]],
    rollouts: Rollouts,
) -> Commit:
    run, plan, filtered = round_.context.run, round_.pairing_plan(), Steps.of(round_.context.job).filter == "judge"
    state = run.ledger.state.commits
    inputs = {
        "graded": rollouts.files[0],
        "errors": files_of(state[f"{round_.folder}/errors"]),
        "located": files_of(state[f"{round_.folder}/located"]),
        "rectified": files_of(state[f"{round_.folder}/rectified"]),
        "per_prompt": plan.per_prompt,
        "max_pairs": plan.max_pairs,
        "seed": plan.seed,
        "filter": judging.settings(round_) if filtered else None,
        "dataset": _dataset(round_),
        "split": Unseen(Steps.of(round_.context.job).split),
    }

    def work(folder: Path) -> Facts:
        folder.mkdir()
        refused: Counter[str] = Counter()
        pairs, facts = choose(wrong, continuations, plan, refused)
        problems = {problem.prompt_id: problem for problem in round_.problems()}
        if filtered:
            pairs, cost = judging.without_wrong_steps(round_, pairs, problems, refused)
            facts |= cost
        facts |= step_files.write_step_pairs(pairs, problems, _dataset(round_), folder / FILE)
        facts |= {f"refused_{reason}": refused[reason] for reason in REFUSALS}
        return facts | step_files.prompt_kinds(rollouts.passes[0])

    commit = run.step(f"{round_.folder}/pairs", inputs, work)
    facts = commit.facts
    refused = ", ".join(f"{facts[f'refused_{r}']} {r.replace('_', ' ')}" for r in REFUSALS if facts[f"refused_{r}"])
    summary = f"{facts['pairs']} pairs of reasoning steps, from {facts['rectified']} answers that can be put right"
    round_.say("pairs", summary + (f"; left out: {refused}" if refused else ""))
    if not facts["pairs"]:
        if not wrong:
            raise NoPairs(
                f"round {round_.number} gives no pairs of reasoning steps: no wrong step was found in its answers."
            )
        raise NoPairs(
            f"round {round_.number} gives no pairs of reasoning steps: {facts['refused_not_rectified']} of its "
            f"{facts['errors']} errors have no right continuation (left out: {refused}). Use easier prompts, more "
            "`steps.rectifications`, or a model that already answers in steps (train it with `method: sft` first)."
        )
    return commit


def choose(
    wrong: Sequence[tuple[Error, int]],
    continuations: Mapping[str, Sequence[Continuation]],
    plan: PairingPlan,
    refused: Counter[str],
) -> tuple[list[StepPair], Facts]:
    """The pairs of all problems, under the caps of the job; of how many there are, and of how many prompts, before
    those."""
    pairs: list[StepPair] = []
    before_cap = prompts_paired = 0
    for _, group in groupby(wrong, key=lambda item: item[0].prompt_id):
        kept, count = pairs_of_problem(list(group), continuations, plan.per_prompt, refused)
        pairs += kept
        before_cap += count
        prompts_paired += count > 0
    subset = random_subset(len(pairs), plan.max_pairs, plan.seed)
    facts = {"before_cap": before_cap, "prompts_paired": prompts_paired}
    facts |= {"errors": len(wrong), "rectified": len(wrong) - refused["not_rectified"]}
    return (pairs if subset is None else [pairs[i] for i in subset]), facts


def _dataset(round_: Round) -> str:
    """A name for the problems, for the column of that name."""
    source = round_.context.job.data.train
    return "" if source is None else source.hub or Path(source.path).stem
