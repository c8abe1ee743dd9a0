"""What an earlier run tells of a job: how long its texts are, how many of its prompts make pairs, how fast this machine
is. Read from ledgers alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Job
from orchestrator.errors import RatchetError
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.ledger.record_files import Record
from orchestrator.reports.overview import runs_in
from orchestrator.reports.rounds import RoundStatus, rounds
from orchestrator.reports.seconds import walls

_MOST_RUNS = 50  # of a folder, the newest; each is read


@dataclass(frozen=True)
class Earlier:
    """Sums over what a run has done itself; 0 stands for what it does not tell."""

    name: str
    here: bool
    """Whether all of it was driven on this machine."""
    device: str | None
    """On what its trainers worked: `cpu` or `cuda`."""
    sample_tokens: float = 0.0
    """Mean tokens of a sample."""
    answer_tokens: float = 0.0
    """Mean tokens of an answer of an evaluation."""
    pairs: float = 0.0
    """Mean pairs of a prompt; of preference data, a stage's."""
    pair_tokens: float = 0.0
    """Mean tokens that a pair is in training, with its share of a prompt."""
    sampling_rate: float = 0.0
    """Tokens a second, as the next ones."""
    answering_rate: float = 0.0
    scoring_rate: float = 0.0
    training_rate: float = 0.0
    rewarding_rate: float = 0.0
    starting: float = 0.0
    """Seconds of the baseline that were no answering: until the first engines are there."""
    between: float = 0.0
    """Seconds of a round that no phase counts: starts, exports, waits."""


def find(root: Path, state: State, job: Job, model: str, runs: Path) -> Earlier | None:
    """What is known from the job's own run, if it has trained a round; else from the newest such run in the folder of
    runs with the same base model and source of pairs."""
    own = [(root, state, _records(root))] if state.commits else []
    for folder, found, records in (*own, *_others(runs, root)):
        if _is_alike(found, job, model) and (told := _told(folder.name, found, records)) is not None:
            return told
    return None


def _records(root: Path) -> Sequence[Record]:
    return Ledger(root / "ledger").records


def _others(runs: Path, own: Path) -> Iterator[tuple[Path, State, Sequence[Record]]]:
    """Runs of a folder, the newest first; what cannot be read tells nothing."""
    with contextlib.suppress(RatchetError, OSError):
        for found in runs_in(runs)[:_MOST_RUNS]:
            if found.rounds and found.folder != own:
                with contextlib.suppress(RatchetError, OSError):
                    ledger = Ledger(found.folder / "ledger")
                    yield found.folder, ledger.state, ledger.records


def _is_alike(state: State, job: Job, model: str) -> bool:
    """Whether a run began with the same model, and gets its pairs in the same way."""
    config = state.configs[-1] if state.configs else {"job": {}}
    source = config["job"].get("source", "sample")
    kind = source.get("type") if isinstance(source, Mapping) else source
    return kind == job.source.type and model in (config.get("model"), config["job"].get("model"))


def _told(name: str, state: State, records: Sequence[Record]) -> Earlier | None:
    own = [each for each in rounds(state) if each.promotion is not None and not each.taken_over]
    trained = [each.facts["train"] for each in own if "train" in each.facts]
    if not trained:
        return None
    epochs = int(state.configs[-1]["job"].get("train", {}).get("epochs", 1))
    executed = trained[-1].get("executed", {})
    hosts = {record.data.get("host") for record in records if record.kind == "claim"}
    baseline = state.commits.get("baseline/evaluation")
    answers = [*([baseline.facts] if baseline else []), *(each.facts.get("evaluation", {}) for each in own)]
    scored = [each.facts.get("reference", {}) for each in own]
    sampled = [each.facts.get("samples", {}) for each in own]
    paired = [each.facts.get("pairs", {}) for each in own]
    rewarded = [facts for each in own for phase, facts in each.facts.items() if phase.endswith("rewards")]
    took = walls(records)
    return Earlier(
        name,
        hosts == {socket.gethostname()},
        executed.get("device"),
        sample_tokens=_ratio(_sum(sampled, "tokens"), _sum(sampled, "samples")),
        answer_tokens=_ratio(sum(map(_answered, answers)), sum(map(_problems, answers))),
        pairs=_ratio(_sum(paired, "pairs"), _sum([e.facts.get("prompts", {}) for e in own], "prompts") or len(own)),
        pair_tokens=_ratio(_sum(trained, "tokens"), epochs * _sum(trained, "pairs")),
        sampling_rate=_ratio(_sum(sampled, "tokens"), _sum(sampled, "seconds")),
        answering_rate=_ratio(sum(map(_answered, answers)), _work(answers)),
        scoring_rate=_ratio(_sum(trained, "tokens") / epochs, _work(scored)),
        training_rate=_ratio(_sum(trained, "tokens"), _work(trained)),
        rewarding_rate=_ratio(_sum(rewarded, "tokens"), _work(rewarded)),
        starting=max(0.0, took.get(0, 0.0) - _work(answers[:1])) if baseline else 0.0,
        between=sum(max(0.0, took.get(each.number, 0.0) - _worked(each)) for each in own) / len(own),
    )


def _worked(round_: RoundStatus) -> float:
    """Seconds of a round that its phases count as work; grading is hidden behind sampling."""
    counted = ("samples", "reference", "train", "evaluation")
    rewards = [phase for phase in round_.facts if phase.endswith("rewards")]
    return sum(_work([round_.facts.get(phase, {})]) for phase in (*counted, *rewards))


def _ratio(one: float, other: float) -> float:
    return one / other if other else 0.0


def _sum(facts: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(said.get(name) or 0 for said in facts))


def _work(facts: Sequence[Mapping[str, Any]]) -> float:
    """Seconds without those until workers were there; those of samples do not count them."""
    total = 0.0
    for said in facts:
        waited = 0.0 if "samples" in said else float(said.get("starting", 0.0))
        total += max(0.0, float(said.get("seconds", 0.0)) - waited)
    return total


def _figures(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = [facts.get("gate"), facts.get("test"), *(facts.get("tests") or {}).values()]
    return [figures for figures in found if figures and "mean_tokens" in figures]


def _problems(facts: Mapping[str, Any]) -> float:
    return float(sum(figures["problems"] for figures in _figures(facts)))


def _answered(facts: Mapping[str, Any]) -> float:
    """Tokens of the answers of an evaluation."""
    return float(sum(figures["problems"] * figures["mean_tokens"] for figures in _figures(facts)))
