"""Whether a run's records can have followed each other: epochs, repeated commits, promotions, ends. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from orchestrator.commands.verify import removals
from orchestrator.ledger import step_facts
from orchestrator.ledger.kinds import EndState, Kind
from orchestrator.ledger.ledger import State
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.rollbacks import round_of
from orchestrator.records.abstentions import graders_version

_NEEDS_CONFIG = ("offer", "shard", "commit", "promotion", "rollback", "discard")


def out_of_turn(record: Record, state: State) -> Iterator[str]:
    """What is wrong with a record where it stands; `state` is the fold of all that come before it."""
    if record.kind not in get_args(Kind):
        yield f"is of the kind {record.kind!r}, which no driver writes"
    if record.epoch < state.epoch + (record.kind == "claim"):
        yield f"of epoch {record.epoch}, after epoch {state.epoch} has begun"
    elif record.kind == "claim" and record.epoch > state.epoch + 1:
        yield f"claims epoch {record.epoch}, after epoch {state.epoch}"
    elif record.kind != "claim" and record.epoch > state.epoch:
        yield f"of epoch {record.epoch}, which no claim has begun"
    if record.kind in _NEEDS_CONFIG and not state.configs:
        yield f"is a {record.kind}, and no config record stands before it"
    if state.end is not None and record.kind not in ("claim", "end"):
        yield f"is a {record.kind}, and its driver has ended before"
    undue = removals.undue(record, state)
    known = {artifact.path for artifact in state.artifacts()} | state.discarded if undue else set[str]()
    for path in undue:
        why = "which no driver removes there" if path in known or record.kind == "commit" else "which is not committed"
        yield f"discards {path}, {why}"
    for path in removals.out_of_place(record):
        yield f"commits {path} for {record.data['step']}, which makes no such file"
    yield from _CHECKS.get(record.kind, _nothing)(record.data, state)


def _nothing(data: Mapping[str, Any], state: State) -> Iterator[str]:
    yield from ()


def _commit(data: Mapping[str, Any], state: State) -> Iterator[str]:
    if data["step"] in state.commits:
        yield f"commits {data['step']} again"
    for shard in state.shards.get(data["step"], {}).values():
        recipe = shard.facts.get("recipe", 1)
        if recipe < data.get("recipe", 1):  # a step names that of its oldest shard; an older one tells less
            yield f"commits {data['step']} by recipe {data['recipe']}, and its shard {shard.index} is by {recipe}"
        elif (
            recipe == data.get("recipe", 1)
            and shard.facts.get("fingerprint", data["fingerprint"]) != data["fingerprint"]
        ):
            yield f"commits {data['step']} with another fingerprint than its shard {shard.index} has"


def _shard(data: Mapping[str, Any], state: State) -> Iterator[str]:
    step, facts = data["step"], data["facts"]
    others = state.shards.get(step, {})
    if data["index"] in others:
        yield f"commits shard {data['index']} of {step} again"
    if step in state.commits:
        yield f"commits shard {data['index']} of {step}, which is committed"
    if versions := {graders_version(other.facts) for other in others.values()} - {graders_version(facts)}:
        yield (
            f"commits shard {data['index']} of {step} by version {graders_version(facts)} of the graders, beside one "
            f"by version {min(versions)}"
        )
    for other in others.values():
        if facts.get("recipe", 1) != other.facts.get("recipe", 1):
            continue
        if facts.get("fingerprint") != other.facts.get("fingerprint"):
            yield f"commits shard {data['index']} of {step} with another fingerprint than shard {other.index} has"
        return  # the others were compared with that one


def _promotion(data: Mapping[str, Any], state: State) -> Iterator[str]:
    number, done = data["round"], [promotion["round"] for promotion in state.promotions]
    if number != len(done) + 1:
        yield f"is the promotion of round {number}, after those of {done or 'none'}"
    if state.promotions and not state.promotions[-1]["promoted"]:
        yield f"is the promotion of round {number}, and the gate has refused round {done[-1]}"
    if f"rounds/{number:02d}/evaluation" not in state.commits:
        yield f"is the promotion of round {number}, whose evaluation is not committed"


def _end(data: Mapping[str, Any], state: State) -> Iterator[str]:
    ended_as, done = data["state"], len(state.promotions)
    if ended_as not in get_args(EndState):
        yield f"says that the run ended as {ended_as!r}, which no run does"
    if ended_as == "finished" and state.configs:
        rounds = state.configs[-1]["job"]["rounds"]
        goal = data.get("goal")  # of a run that is made to be graded again, the pairs of a round
        if goal is not None and goal not in state.commits:
            yield f"says that the run is finished as far as {goal}, which is not committed"
        if goal is None and done < rounds:
            yield f"says that the run is finished, and {done} of its {rounds} rounds are"
    if ended_as == "not started" and not (state.configs and "parent" in state.configs[-1]):
        yield "says that the run is a fork which was not started, and it is no fork"


def _rollback(data: Mapping[str, Any], state: State) -> Iterator[str]:
    number, promoted = data["round"], [p["round"] for p in state.promotions if p["promoted"]]
    if number and number not in promoted:
        yield f"goes back to round {number}, which was not promoted"
    if number in promoted and f"rounds/{number:02d}/checkpoint" in state.discarded:
        yield f"goes back to round {number}, whose checkpoint was discarded"
    later = sorted({n for step in (*state.commits, *state.shards) if (n := round_of(step)) > number})
    if data["rounds"] != later:
        yield f"sets aside rounds {data['rounds'] or 'none'}, and those after round {number} are {later or 'none'}"
    before = str(state.promotions[-1]["reference"]) if state.promotions else None
    if data["before"] != before and (before is not None or data["before"] not in model_names(state)):
        yield f"names {data['before']} as the reference before, which it was not"


_CHECKS = {"commit": _commit, "shard": _shard, "promotion": _promotion, "rollback": _rollback, "end": _end}


_GRADED = ("verdicts", "evaluation", "selection", "regraded", "repeated")


def untold(
    step: str,
    index: int | None,
    recorded: Mapping[str, Any],
    computed: Mapping[str, Any],
    not_computed: Collection[str],
) -> Iterator[str]:
    """What a record by the present recipe lacks, of the facts that no file says; and what it tells that `computed`
    should have, since it is none of the `not_computed`. A shard names how it was made, as commits do beside their
    facts."""
    always = ["seconds"] if index is None else ["seconds", "fingerprint", "recipe"]
    phases = step.split("/")
    if any(phase in _GRADED for phase in phases[-2:]):
        always.append("graders_version")
    yield from (f"{name} is not told" for name in always if name not in recorded)
    if "selection" in phases and phases[-1].isdigit() and recorded.get("probe") is None:
        yield "probe is not told"  # every checkpoint that may be chosen has one, and its file goes with it
    known = step_facts.model_of(step).__annotations__
    for name in recorded:
        if name in known and name not in computed and name not in not_computed and recorded[name] not in ([], None):
            yield f"{name} is told, and no file says it"


_BESIDE = {"claim", "config", "discard", "end"}


def current(text: str, state: State, after: set[str]) -> str | None:
    """What is wrong with the file CURRENT, if anything. `after` are the kinds of the records that follow the last
    promotion or rollback: a driver may have died before it wrote the file, and the next one does so at its start."""
    if state.rolled_back and after <= _BESIDE and text == state.rollbacks[-1].before:
        return None
    if not state.promotions:
        return f"names {text}, and nothing was promoted" if text else None
    named = [str(promotion["reference"]) for promotion in state.promotions]
    behind = named[-2:-1] if after <= _BESIDE and not state.rolled_back else []
    return None if text in (named[-1], *behind) else f"names {text}, and the last promotion {named[-1]}"


def model_names(state: State) -> set[str]:
    """By which names promotions may speak of the base model."""
    return {str(config.get("model") or config["job"]["model"]) for config in state.configs}
