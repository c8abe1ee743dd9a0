"""What `ratchet verify` computes again of prompts that were drawn by their pass rates (see curriculum.py)."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import Damaged
from orchestrator.ledger.run import Facts
from orchestrator.records.parquet import read_table
from orchestrator.records.seeds import derived_seed
from orchestrator.rounds.curriculum import Tally, draw, drawn_in, folder_of, known_in, read_rows, step_of, tallied
from orchestrator.rounds.recount import Counting


def facts_again(run: Counting, step: str, round_number: str) -> Facts:
    """Of a draw, which must be what the file before it and the verdicts decide, as the prompts of the round must be of
    it."""
    rule, number = run.job.data.curriculum, int(round_number)
    if rule is None:
        raise Damaged("the job has no `data.curriculum`")
    rows = read_rows(run.files.all(step)[0])
    known, order = known_in(rows), drawn_in(rows)
    names = {row.number: row.prompt_id for row in rows}
    if known != _known_before(run, number, known, names):
        raise Damaged("its pass rates are not those of the verdicts of the rounds before")
    told = run.state.commits[step].facts
    # Both stand in a record, which may be a stranger's: no more is made of them than the file has rows.
    if told.get("prompts") != len(order) or not max(names, default=0) < told.get("problems", 0) < 2**31:
        raise Damaged("it tells another number of prompts than it draws, or fewer problems than it names")
    drawn = draw(known, told["problems"], len(order), rule, derived_seed(run.job.seed, "curriculum", number))
    if list(drawn.order) != order:
        raise Damaged("what it draws is not what the pass rates and the seed decide")
    if f"{folder_of(number)}/prompts" in run.state.commits:
        [prompts] = run.files.all(f"{folder_of(number)}/prompts")
        if not {*read_table(prompts, columns=["prompt_id"])["prompt_id"].to_pylist()} <= {names[n] for n in order}:
            raise Damaged("the prompts of the round are not among those that it draws")
    return drawn.facts


def _known_before(run: Counting, number: int, told: Mapping[int, Tally], names: Mapping[int, str]) -> dict[int, Tally]:
    """What is known before a round, by the file of the round before and its verdicts. Which problems the first round
    has drawn is `told` by the file itself, and must be all that have verdicts."""
    last = number - 1
    before = read_rows(run.files.all(step_of(last))[0]) if number > 2 else []
    drawn = drawn_in(before) if before else [one for one, tally in told.items() if tally.round == last]
    tallies = tallied(shard.scores for shard in run.files.scored(folder_of(last), 1))
    if not tallies.keys() <= {names.get(one) for one in drawn}:
        raise Damaged("it leaves out problems that the round before has sampled")
    return known_in(before) | {one: Tally(last, *tallies.get(names.get(one, ""), (0, 0))) for one in drawn}
