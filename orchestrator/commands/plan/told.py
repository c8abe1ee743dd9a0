"""A plan in lines, for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from orchestrator.commands.plan.command import Plan, devices_gib
from orchestrator.commands.plan.work import EVALUATED, READ, Amount
from orchestrator.rounds.space import gib

_PARTS = {
    "masters": "float32 weights",
    "moments": "moments",
    "passing": "passes",
    "update": "an update",
    "libraries": "libraries",
}


def lines(found: Plan, price: float | None) -> Iterator[str]:
    """What comes after `validate`'s lines."""
    for name, said in found.golds.items():
        told = "; ".join(f"{grader}: {verdict}{f' ({why})' if why else ''}" for grader, verdict, why in said)
        yield f"grader    {name!r}: {told}"
    yield f"plan      for {found.machine}"
    yield from _steps(found)
    yield from _work(found)
    yield from _memory(found)
    need = found.need
    yield (
        f"disk      up to {gib(need.total)} ({gib(need.checkpoints)} of checkpoints, {gib(need.states)} of saved "
        f"training states, {gib(need.rows)} of samples and pairs), of which {gib(found.held)} are there; "
        f"{gib(found.free)} are free"
    )
    yield from _hours(found, price)
    yield from (f"fits      no: {line}" for refusal in found.refusals for line in refusal.splitlines())
    if not found.refusals:
        yield "fits      yes, by these sums" if found.holdings else "fits      not known: the model's size is not told"


def _steps(found: Plan) -> Iterator[str]:
    left = sum(step.standing not in ("done", "taken") for step in found.steps)
    yield f"steps     {left} to do, {len(found.steps) - left} are there or taken over"
    for (number, standing, why), group in groupby(found.steps, lambda step: (step.round, step.standing, step.why)):
        where = f"round {number}" if number else "baseline"
        yield f"{standing:<9} {where}: {', '.join(step.phase for step in group)} ({why})"


def _work(found: Plan) -> Iterator[str]:
    drawn = [a for each in found.rounds for a in each if a.phase not in (*EVALUATED, *READ)]
    answers = [a for each in found.rounds for a in each if a.phase in EVALUATED]
    trained = [a for each in found.rounds for a in each if a.phase == "train"]
    texts = found.texts
    yield (
        f"samples   at most {_sum(drawn, 'samples'):,} in {_sum(drawn, 'written'):,} tokens; "
        f"{_sum(answers, 'samples'):,} answers of evaluations in {_sum(answers, 'written'):,} tokens"
    )
    rate = (
        "the most that there may be" if texts.pairs is None else f"{texts.pairs:.2f} a prompt, as in {texts.rests_on}"
    )
    yield f"training  {_sum(trained, 'samples'):,} pairs ({rate}), {_sum(trained, 'read'):,} tokens"
    yield (
        f"lengths   {texts.prompt:.0f} tokens a prompt, {texts.sample:.0f} a sample, {texts.answer:.0f} an answer; "
        f"rests on {texts.rests_on}"
    )


def _sum(amounts: list[Amount], name: str) -> int:
    return int(sum(getattr(amount, name) for amount in amounts))


def _memory(found: Plan) -> Iterator[str]:
    yield from (f"settings  {line}" for line in found.settings)
    for held in found.holdings:
        parts = ", ".join(f"{_PARTS.get(name, name)} {gib(size)}" for name, size in held.parts.items() if size)
        room = "" if held.room is None else f" of {devices_gib(held.room)} that it may take"
        yield f"memory    {held.workers} x {held.role}: {gib(held.total)} at once{room}; {parts}"
    if not found.holdings:
        yield "memory    not known: the model's config.json does not tell its size in names that are known here"


def _hours(found: Plan, price: float | None) -> Iterator[str]:
    by_phase: dict[tuple[str, str], float] = {}
    for each in found.times:
        for timed in each:
            by_phase[timed.phase, timed.rests_on] = by_phase.get((timed.phase, timed.rests_on), 0.0) + timed.seconds
    for (phase, rests_on), seconds in by_phase.items():
        yield f"hours     {seconds / 3600:8.2f} {phase} ({_clock(seconds)}); rests on {rests_on}"
    if found.untold:
        yield "hours     not told in all: of this GPU or model there are no figures, and no earlier run on this machine"
        return
    yield f"hours     {found.seconds / 3600:8.2f} in all ({_clock(found.seconds)})"
    if price is not None:
        yield f"price     {price * found.seconds / 3600:,.2f} at {price:,.2f} an hour"


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"
