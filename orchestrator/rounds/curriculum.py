"""A round's prompts drawn by their pass rates (`data.curriculum`): what the verdicts of earlier rounds decide. It is
committed as the step `curriculum` of the round.

Its file has what is known of every problem that was drawn so far, and its place among those that this round draws. So
each round reads the file of the one before and that one's verdicts, and no more.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.config import Curriculum, Data, Job
from orchestrator.errors import Damaged
from orchestrator.inputs.problem_set import digest_of_problems
from orchestrator.ledger import waves
from orchestrator.ledger.run import Facts, Run
from orchestrator.ledger.uses import files_of, used_file
from orchestrator.records.drawn import CURRICULUM
from orchestrator.records.parquet import read_table
from orchestrator.rounds.context import Context


@dataclass(frozen=True, slots=True)
class Tally:
    """How a problem did when a round last drew it; without samples it was too long, or took engines down."""

    round: int
    samples: int
    correct: int

    def too(self, rule: Curriculum) -> str | None:
        """Whether it is too `hard` or too `easy` for the rule, or has not a sample: `unknown`; None where it fits."""
        if not self.samples:
            return "unknown"
        rate = self.correct / self.samples
        return "hard" if rate < rule.lowest else "easy" if rate > rule.highest else None


@dataclass(frozen=True)
class Draw:
    """What a round draws: numbers of training problems, from 0, in order."""

    order: Sequence[int]
    facts: Facts


def draw(known: Mapping[int, Tally], problems: int, size: int, rule: Curriculum, seed: int) -> Draw:
    """Draw `size` of so many problems, of which all that were drawn before are `known`. Pure.

    Those that fit the rule, and those that were never drawn, have the same chance. A share `rule.others` is taken from
    the rest, whose tallies are the oldest first, so that pass rates are renewed; more of them where too few fit, and
    fewer where there are not so many.
    """
    rng, size = random.Random(seed), min(size, problems)
    why = {number: tally.too(rule) for number, tally in sorted(known.items())}
    fit = [number for number, too in why.items() if too is None]
    others = [number for number, too in why.items() if too is not None]
    rng.shuffle(others)
    others.sort(key=lambda number: known[number].round)
    wanted = min(round(rule.others * size), len(others))
    candidates = len(fit) + problems - len(known)
    places = rng.sample(range(candidates), min(size - wanted, candidates))
    drawn = _numbered(places, fit, list(why))
    filled = others[: size - len(drawn)]
    order = [*drawn, *filled]
    rng.shuffle(order)
    new = sum(number not in known for number in drawn)
    facts: Facts = {"prompts": size, "problems": problems, "fitting": len(drawn) - new, "new": new}
    facts |= {"others": len(filled), "filled": max(0, len(filled) - wanted)}
    return Draw(order, facts | {f"too_{kind}": list(why.values()).count(kind) for kind in ("easy", "hard")})


def _numbered(places: Sequence[int], fit: Sequence[int], known: Sequence[int]) -> list[int]:
    """The numbers of the problems at places of a list with those that `fit` and then all that are not among `known`, in
    order. No list of all problems is made, of which somebody else's record may tell any number."""
    before = [number - count for count, number in enumerate(known)]  # how many that are not known stand before it
    found = []
    for place in places:
        new = place - len(fit)
        found.append(fit[place] if new < 0 else new + bisect_right(before, new))
    return found


def usual_draw(problems: int, data: Data, number: int, seed: int) -> Sequence[int]:
    """The numbers of the training problems that a round (from 1) draws whatever their pass rates: the same ones every
    round, or the next ones of a shuffled order that wraps at the end."""
    size = min(data.prompts_per_round or problems, problems)
    if size == problems:
        return range(problems)
    order = random.Random(seed).sample(range(problems), problems)
    start = 0 if data.prompts == "same" else (number - 1) * size
    return [order[(start + i) % problems] for i in range(size)]


def drawn_for(job: Job, run: Run, number: int, problems: int) -> Sequence[int] | None:
    """The numbers of the training problems, of so many, that were drawn for a round; None where no round before it
    decides.

    Raises:
        Damaged: the committed file names one that there is not.
    """
    if job.data.curriculum is None or number == 1:
        return None
    commit = run.ledger.state.commits[step_of(number)]
    file = run.path(f"{step_of(number)}/00000.parquet")
    with run.using(files_of(commit)):
        drawn = drawn_in(read_rows(file))
    if len({*drawn}) < len(drawn) or not all(0 <= one < problems for one in drawn):
        raise Damaged(
            f"{file}: it draws a problem twice, or one that data.train does not have. Restore it from a copy."
        )
    return drawn


def decide(context: Context, number: int) -> None:
    """Commit what a round draws, if the ones before it decide."""
    run, data, problems = context.run, context.job.data, context.problems["train"]
    rule = data.curriculum
    if rule is None or number == 1:
        return
    last, seed = number - 1, context.seed("curriculum", number)
    before = run.ledger.state.commits.get(step_of(last))
    # Of samples that were drawn in waves the first one, in which all prompts were asked alike.
    verdicts = [shard[0] for shard in waves.shards(run.ledger.state, folder_of(last), "verdicts").values()]
    size = min(data.prompts_per_round or len(problems), len(problems))
    inputs = {
        "before": files_of(before) if before else [],
        "verdicts": [used_file(shard) for shard in verdicts],
        "problems": digest_of_problems(problems),
        "size": size,
        "rule": rule,
        "seed": seed,
    }

    def work(folder: Path) -> Facts:
        folder.mkdir()
        names = [problem.prompt_id for problem in problems]
        table = read_rows(run.path(f"{step_of(last)}/00000.parquet")) if before else []
        usual = usual_draw(len(problems), data, last, context.seed("prompts"))
        drawn_last = drawn_in(table) if before else usual
        tallies = tallied([run.path(shard.path) for shard in verdicts])
        known = known_in(table) | {n: Tally(last, *tallies.get(names[n], (0, 0))) for n in drawn_last}
        drawn = draw(known, len(problems), size, rule, seed)
        pq.write_table(_rows(known, drawn.order, names), folder / "00000.parquet", compression="zstd")
        return drawn.facts

    context.tell(folder_of(number), "curriculum", _told(run.step(step_of(number), inputs, work).facts, rule))


def _told(facts: Facts, rule: Curriculum) -> str:
    said = (
        f"{facts['prompts']} prompts: {facts['fitting']} with {100 * rule.lowest:g} to {100 * rule.highest:g} % right "
    )
    said += f"samples, {facts['new']} never drawn before, {facts['others']} others"
    if not facts["filled"]:
        return said
    known = f"of those drawn before {facts['too_easy']} are too easy and {facts['too_hard']} too hard"
    return f"{said}. Too few fit, so that {facts['filled']} of the others fill up: {known} (data.curriculum)"


def tallied(verdicts: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """How many samples each prompt has, and how many of them are correct, by its id."""
    found: dict[str, tuple[int, int]] = {}
    for file in verdicts:
        table = read_table(file, columns=["prompt_id", "verdict"])
        table = table.append_column("correct", pc.cast(pc.equal(table["verdict"], "correct"), pa.int32()))
        for row in table.group_by("prompt_id").aggregate([("correct", "count"), ("correct", "sum")]).to_pylist():
            samples, correct = found.get(row["prompt_id"], (0, 0))
            found[row["prompt_id"]] = (samples + row["correct_count"], correct + row["correct_sum"])
    return found


class Row(NamedTuple):
    """A row of a round's file (schema CURRICULUM)."""

    number: int
    prompt_id: str
    round: int | None
    samples: int
    correct: int
    place: int | None


def read_rows(file: Path) -> list[Row]:
    """The rows of a round's file."""
    return [Row(**row) for row in read_table(file, columns=list(Row._fields)).to_pylist()]


def drawn_in(rows: Sequence[Row]) -> list[int]:
    """The numbers of the problems that a file says are drawn, in order."""
    return [number for _, number in sorted((row.place, row.number) for row in rows if row.place is not None)]


def known_in(rows: Sequence[Row]) -> dict[int, Tally]:
    """What a file knows of the problems that rounds before its own have drawn, by their numbers."""
    return {row.number: Tally(row.round, row.samples, row.correct) for row in rows if row.round is not None}


def _rows(known: Mapping[int, Tally], order: Sequence[int], names: Sequence[str]) -> pa.Table:
    places, rows = {number: place for place, number in enumerate(order)}, []
    for number in sorted({*known, *order}):
        tally = known.get(number, Tally(0, 0, 0))
        told = (tally.round or None, tally.samples, tally.correct, places.get(number))
        rows.append(Row(number, names[number], *told)._asdict())
    return pa.Table.from_pylist(rows, CURRICULUM)


def folder_of(number: int) -> str:
    """Where a round's steps are."""
    return f"rounds/{number:02d}"


def step_of(number: int) -> str:
    """The step that decides what a round draws."""
    return f"{folder_of(number)}/curriculum"
