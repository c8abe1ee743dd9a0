"""report.md: what a run was and did, from its ledger and files. Derived: delete it, and it is made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.forms import FORMS
from orchestrator.config.reward import lacks_golds
from orchestrator.config.sources import kind_of
from orchestrator.errors import Damaged
from orchestrator.files.durable import replace
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.ledger.taken import parent
from orchestrator.records.abstentions import graders_version
from orchestrator.records.executed import ANEW, ENDED, HALVED, WEIGHTS
from orchestrator.reports import harness, repeated
from orchestrator.reports.columns import Column, Reporting, change, fact, last, number, table
from orchestrator.reports.dashboard import dashboard, is_server
from orchestrator.reports.disputes import disputes
from orchestrator.reports.evidence import Evidence, base_of
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.health import KINDS, health
from orchestrator.reports.rounds import RoundStatus, rounds
from orchestrator.reports.seconds import own, seconds_section, walls
from orchestrator.reports.status import halvings, open_run, reason, reference_path, run_state
from orchestrator.reports.symptoms import symptoms
from orchestrator.reports.tables import diversity, training_metrics
from orchestrator.text.counts import bracketed, with_replayed
from orchestrator.text.shown import code, markdown


def write_report(run_dir: Path, sources: Mapping[str, Reporting], ledger: Ledger | None = None) -> Path:
    """Write report.md into the run folder; returns its path. `sources` are those of pairs, by name.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a ledger record cannot be read.
    """
    file = run_dir / "report.md"
    replace(file, report_text(run_dir, sources, ledger).encode())
    return file


def report_text(run_dir: Path, sources: Mapping[str, Reporting], ledger: Ledger | None = None) -> str:
    """The report as Markdown."""
    ledger = ledger or open_run(run_dir)
    state = ledger.state
    job: Mapping[str, Any] = state.configs[-1]["job"] if state.configs else {}
    source = sources[kind_of(job).name()].reported
    base = base_of(state)
    done = [evidence(run_dir, state, round_) for round_ in rounds(state)]
    parts = [
        f"# {markdown(job.get('name', run_dir.absolute().name))}",
        _summary(run_dir, state, base, done),
        "## Job",
        _job(job, source.settings),
        "## Accuracy",
        "In per cent, greedy, with 95 % intervals (Wilson). The gate problems decide promotion; the test "
        "problems decide nothing. What is ungradable, such as an answer that cannot be read, counts as not "
        "solved." + _versions([base, *done]),
        table(_accuracies([base, *done]), [base, *done]),
        *repeated.SECTION.parts([base, *done]),
        *harness.section([base, *done]),
        "## Promotion",
        _promotions(done),
        *(part for section in source.sections for part in section.parts(done)),
        "## Training",
        "Log-probabilities are of whole completions, in nats: the mean of the first and of the last quarter of the "
        "updates. Reward accuracy is of the last alone: as long as margins are about zero it is chance. Padded is what "
        "padding every batch to its longest row would have cost.",
        table(_TRAINING, done),
        "## Health",
        _HEALTH_TEXT,
        table(_HEALTH, done),
        "## Seconds",
        seconds_section(done, walls(ledger.records)),
        *_executed_otherwise(state),
        *_disputed(run_dir, state, done),
        "## Known ways such loops go wrong",
        _warnings(symptoms(base, done, source.symptoms)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def evidence(run_dir: Path, state: State, round_: RoundStatus) -> Evidence:
    """A round's facts with what only its files tell. A file that is gone leaves its figures empty."""
    try:
        found = Evidence(
            round_,
            training_metrics(run_dir, state, round_.number),
            diversity(run_dir, state, round_.number) if _untold(round_) else None,
            state.configs[-1]["job"]["loss"].get("form", "sigmoid") if state.configs else "sigmoid",
            not (state.configs and lacks_golds(state.configs[-1]["job"])),
        )
    except (OSError, ValueError, Damaged):  # ArrowInvalid is a ValueError; `verify` is there to complain
        found = Evidence(round_)
    return found


def _untold(round_: RoundStatus) -> bool:
    """Whether a round's verdicts are there, and do not tell how many answers of a prompt differ: an earlier version has
    told nothing of it, and several waves of samples tell each its own."""
    verdicts = round_.facts.get("verdicts")
    return verdicts is not None and ("distinct_answers" not in verdicts or len(round_.waves("verdicts")) > 1)


def _versions(every: Sequence[Evidence]) -> str:
    """Which version of the graders each evaluation is by, where there are several."""
    found: dict[int, list[str]] = {}
    for evidence in every:
        if facts := evidence.round.facts.get("evaluation"):
            name = str(evidence.round.number) if evidence.round.number else "base"
            found.setdefault(graders_version(facts), []).append(name)
    if len(found) < 2:
        return ""
    told = "; ".join(f"version {version}: {', '.join(names)}" for version, names in sorted(found.items()))
    return (
        f"\n\nThese figures are by different versions of the graders ({markdown(told)}) and not to be compared across "
        "them; the gate has compared answers that one version graded. A fork of the run does again what another "
        "version graded, and what is made of that."
    )


def _summary(run_dir: Path, state: State, base: Evidence, done: Sequence[Evidence]) -> str:
    why = reason(state, now := run_state(run_dir, state))
    lines = [f"- State: {markdown(f'{now}: {why}' if why else now)}"]
    if forked_from := parent(state):
        lines.append(f"- Made from: {code(forked_from)}; what was taken over from it is marked below")
    lines.append(f"- Reference: {code(reference_path(run_dir, state))}")
    lines += [f"- {markdown(rollback.line())}" for rollback in state.rollbacks]
    tracking: Mapping[str, Any] = state.configs[-1]["job"].get("tracking", {}) if state.configs else {}
    if state.configs and (found := dashboard(run_dir, tracking)):
        # Not where `ratchet ui` serves it now: a report stays.
        page = found["address"] if is_server(str(tracking.get("uri"))) else None
        lines.append(f"- Dashboard: {code(found['command'])}" + (f", {code(page)}" if page else ""))
    best = [e for e in done if e.promotion and e.promotion["promoted"] and e.figures("test")]
    if best and (start := base.figures("test")):
        last = best[-1].figures("test") or {}
        gain = 100 * (last["accuracy"] - start["accuracy"])
        after = f"{_accuracy(last)} after round {best[-1].round.number}"
        lines.append(f"- Test accuracy: {_accuracy(start)} before, {after} ({gain:+.1f} points)")
    return "\n".join(lines)


def _job(job: Mapping[str, Any], of_the_source: Sequence[tuple[str, str]]) -> str:
    """The settings that name the experiment; resolved.yaml has all of them."""
    keys = (
        ("method", "method"), ("source", "source"), ("base model", "model"), ("training problems", "data.train"),
        *of_the_source, ("gate problems", "data.gate"), ("test problems", "data.test"),
        ("rounds", "rounds"), ("samples a prompt", "generate.samples"), ("temperature", "generate.temperature"),
        ("temperatures in turn", "generate.temperature_mix"),
        ("lowest pass rate of prompts", "data.curriculum.lowest"), ("highest", "data.curriculum.highest"),
        ("mixed prompts wanted", "generate.adapt_temperature.mixed"), ("longest completion", "generate.max_tokens"),
        ("pair rule", "pairs.rule"), ("pairs a prompt", "pairs.per_prompt"), ("loss", "loss.form"),
        *_of_the_form(job), ("DPO weight", "loss.dpo"), ("NLL weight (alpha)", "loss.nll"),
        ("rank of adapters", "lora.rank"), ("targets of adapters", "lora.targets"),
        ("adapters between rounds", "lora.between_rounds"),
        ("learning rate", "train.learning_rate"), ("pairs an update", "train.batch_pairs"),
        ("epochs", "train.epochs"), ("training tokens a round", "train.token_budget"),
        ("promotion", "promotion.rule"), ("seed", "seed"),
    )  # fmt: skip
    rows = [(label, _lookup(job, key)) for label, key in keys if not _lookup(job, _GIVES_WAY.get(key, ""))]
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {a} | {markdown(b)} |" for a, b in rows if b)])


def _of_the_form(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings that the loss's form reads, with their labels."""
    said = job.get("loss", {})
    form = FORMS.get(said.get("form", "sigmoid"), FORMS["sigmoid"])
    for key in ("beta", "smoothing", "penalty", "target_margin", "score_scale"):
        if key in form.settings and said.get(key):
            yield key.replace("_", " "), f"loss.{key}"


_GIVES_WAY = {"generate.temperature": "generate.temperature_mix", "train.epochs": "train.token_budget"}
"""Keys that count for nothing where another one is set."""


def _lookup(job: Mapping[str, Any], key: str) -> str:
    value: Any = job
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list) else [] if value is None else [value]
    return ", ".join(
        str(v.get("path") or v.get("hub") or v.get("model")) if isinstance(v, Mapping) else str(v) for v in values
    )


_ACCURACY = (
    Column("round", lambda e: str(e.round.number) if e.round.number else "base"),
    Column("test", lambda e: _accuracy(e.figures("test"))),
    Column("gate", lambda e: _accuracy(e.figures("gate"))),
    Column("tokens an answer", lambda e: number(e.figures("test"), "mean_tokens", ".1f")),
    Column("truncated (test)", lambda e: number(e.figures("test"), "truncated", ",")),
    Column("unreadable (test)", lambda e: number(e.figures("test"), "unreadable", ",")),
    Column("probe, nats a token", lambda e: number(e.figures("probe"), "mean_difference", ".4f")),
)


def _accuracies(every: Sequence[Evidence]) -> list[Column]:
    """The columns on accuracy, with one for each further test set."""
    names = dict.fromkeys(name for e in every for name in e.further)

    def column(name: str) -> Column:
        return Column(name, lambda e: _accuracy(e.further.get(name)))

    return [*_ACCURACY[:2], *map(column, names), *_ACCURACY[2:]]


_TRAINING = (
    Column("round", lambda e: str(e.round.number)),
    Column("pairs", lambda e: with_replayed(e.round.known("pairs", "pairs"), e.round.known("replay", "pairs"))),
    Column("updates", lambda e: fact(e, "train", "steps", ",")),
    Column("tokens", lambda e: fact(e, "train", "tokens", ",")),
    Column("padded", lambda e: fact(e, "train", "padded_tokens", ",")),
    Column("tokens/s", lambda e: own(e, "train") or fact(e, "train", "tokens_per_second", ",.0f")),
    Column("chosen tokens", lambda e: fact(e, "pairs", "chosen_tokens", ".1f")),
    Column("rejected tokens", lambda e: fact(e, "pairs", "rejected_tokens", ".1f")),
    Column("log chosen", lambda e: change(e, "chosen_logprob", ".2f")),
    Column("log rejected", lambda e: change(e, "rejected_logprob", ".2f")),
    Column("loss", lambda e: change(e, "loss", ".3f")),
    Column("reward accuracy", lambda e: last(e, "reward_accuracy", ".2f")),
)


_HEALTH_TEXT = (
    "What shows when such a loop goes wrong; warnings stand at the end. Shares of prompts are by their samples' "
    "verdicts, ungradable ones aside; a prompt of which no sample is right or wrong counts by what most of them are. "
    "Chosen: the mean log-probability of the chosen completions in the first and the last quarter of the updates. "
    "KL, with its standard error: of the base model's own samples, a completion; measured with `evaluate.samples`."
)


def _share(name: str) -> Callable[[Evidence], str]:
    return lambda e: format(100 * health(e)[name], ".1f") if name in health(e) else ""


_HEALTH = (
    Column("round", lambda e: str(e.round.number)),
    Column("pass@1, %", _share("pass_1")),
    Column("pass@N, %", _share("pass_n")),
    Column("answers a prompt", lambda e: number(health(e), "distinct_answers", ".2f")),
    *(Column(f"{word}, %", _share(name)) for name, word in KINDS.items()),
    Column("prompts with pairs, %", _share("prompts_paired")),
    Column("tokens a sample", lambda e: number(health(e), "sample_tokens", ".1f")),
    Column("tokens an answer", lambda e: number(health(e), "answer_tokens", ".1f")),
    Column("KL from base, nats", lambda e: _kl(e)),
    Column("chosen, nats", lambda e: change(e, "chosen_logprob", ".2f")),
    Column("chosen, nats a token", lambda e: number(health(e), "chosen_logprob_token", ".3f")),
)


def _kl(evidence: Evidence) -> str:
    facts = evidence.round.facts.get("drift", {})
    return f"{facts['kl']:.2f} ± {facts['kl_error']:.2f}" if {"kl", "kl_error"} <= facts.keys() else ""


_PROMOTIONS = (
    Column("round", lambda e: str(e.round.number)),
    Column("promoted", lambda e: "yes" if e.promotion["promoted"] else "no"),
    Column("rule", lambda e: str(e.promotion["rule"])),
    Column("won", lambda e: str(e.promotion["won"])),
    Column("lost", lambda e: str(e.promotion["lost"])),
    Column("p", lambda e: format(e.promotion["p_value"], ".3g")),
    Column("alpha", lambda e: format(e.promotion["alpha"], "g")),
    Column("smallest drop", lambda e: _points(e.promotion.get("smallest_detectable_drop"))),
)


def _promotions(done: Sequence[Evidence]) -> str:
    decided = [evidence for evidence in done if evidence.promotion]
    said = [f"Round {e.round.number}, {gate_said(e.promotion, e.round.facts.get('evaluation'))}." for e in decided]
    why = (
        "Won and lost count the gate problems that only the candidate, or only the best reference so far, "
        "solves. The smallest drop is the least that the test could have called significant, had nothing "
        "been won."
    )
    return "\n\n".join(["\n".join(f"- {markdown(line)}" for line in said), why, table(_PROMOTIONS, decided)]).lstrip()


def _points(fraction: float | None) -> str:
    return "none" if fraction is None else f"{100 * fraction:.1f} points"


def _disputed(run_dir: Path, state: State, done: Sequence[Evidence]) -> list[str]:
    """The section on what graders differ about; none where they were not audited."""
    lines = []
    for evidence in done:
        if "disputed" not in evidence.round.facts.get("verdicts", {}):
            continue
        try:
            found = disputes(run_dir, state, evidence.round.number)
        except (OSError, ValueError, Damaged):  # as in `evidence`
            continue
        splits = "; ".join(f"{count:,} by {split}" for split, count in found.splits.most_common())
        about = f"{found.disputed:,} of {found.asked:,} answers" + (f": correct {splits}" if splits else "")
        lines.append(markdown(f"Round {evidence.round.number}, {about}."))
        rows = ["| " + " | ".join(map(markdown, _example(example))) + " |" for example in found.examples]
        if rows:
            lines.append("\n".join(["| gold | answer | verdict | graders | where |", "|---|---|---|---|---|", *rows]))
    return ["## Where graders differ", *lines] if lines else []


def _example(row: Mapping[str, Any]) -> Iterator[str]:
    """The cells of a disputed answer."""
    yield from (row["gold"], row["extracted"], row["verdict"])
    yield ", ".join(f"{name}: {verdict}" for name, verdict in row["opinions"].items())
    yield f"{row['prompt_id']}, sample {row['sample_index']}"


_OF_ONE_STEP = frozenset({"reference", HALVED, WEIGHTS, ENDED})
"""What each step has of its own, or is told of it otherwise."""


def _executed_otherwise(state: State) -> list[str]:
    """The section on where the run was executed otherwise in the midst of it; none where all was executed alike."""
    rows = [
        f"| {markdown(key)} | " + ", ".join(f"{markdown(value)} from {markdown(step)}" for value, step in values) + " |"
        for key, values in _executed_values({step: commit.facts for step, commit in state.commits.items()}).items()
        if len(values) > 1
    ]
    table = ["\n".join(["| setting | value |", "|---|---|", *rows])] if rows else []
    half = [f"- {markdown(said)}" for round_ in rounds(state) for said in halvings(round_.number, round_.halved())]
    half += [f"- {markdown(step)}: {markdown(why)}" for step, why in (*_made_anew(state), *_ended(state))]
    said = [*table, *(["\n".join(half)] if half else [])]
    why = "This says how the work was done. It changes no result, or only its rounding."
    return ["## Executed otherwise", why, *said] if said else []


def _made_anew(state: State) -> list[tuple[str, str]]:
    """Steps whose engines could not take weights in place, and why."""
    told = {step: commit.facts.get("executed", {}).get(WEIGHTS) for step, commit in state.commits.items()}
    line = "engines were made anew, since weights could not be loaded in place: "
    return [(s, line + t.removeprefix(ANEW)) for s, t in told.items() if isinstance(t, str) and t.startswith(ANEW)]


def _ended(state: State) -> list[tuple[str, str]]:
    """Steps whose workers are new processes, since those of the turn before gave no memory back."""
    told = {step: commit.facts.get("executed", {}).get(ENDED) for step, commit in state.commits.items()}
    return [(step, f"new processes, since {words}") for step, words in told.items() if isinstance(words, str)]


def _executed_values(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """By setting its values in order, each with the first step that has it."""
    values_of: dict[str, list[tuple[str, str]]] = {}
    for step, step_facts in facts.items():
        executed = step_facts.get("executed", {})
        for key in sorted(executed.keys() - _OF_ONE_STEP):
            values, text = values_of.setdefault(key, []), json.dumps(executed[key], sort_keys=True)
            if not values or values[-1][0] != text:
                values.append((text, step))
    return values_of


def _warnings(found: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(line)}" for line in found) if found else "None shows in this run's figures."


def _accuracy(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    return f"{100 * figures['accuracy']:.1f} {bracketed(figures['low'], figures['high'])}"
