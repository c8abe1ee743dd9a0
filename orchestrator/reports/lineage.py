"""From a promoted checkpoint back to its prompts: weights, training, pairs, verdicts, samples, prompts.

Hashes say that a file is what was committed; this says that what was committed belongs together. One shard is in
memory at a time. What grows with a round is a digest a prompt, and where replayed, a digest a pair.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config import OWN_REFERENCES
from orchestrator.config.forms import reads_reference
from orchestrator.config.reward import phases
from orchestrator.config.sources import kind_of
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import State
from orchestrator.records.groups import FURTHER, GROUP, SCORES
from orchestrator.records.masks import PAIR_MASKS
from orchestrator.reports.status import open_run
from orchestrator.reports.tables import parquet_files, step_rows
from orchestrator.text.counts import many

_MAX_TOLD = 20
_IDS = ["prompt_token_ids", "chosen_token_ids", "rejected_token_ids"]
_MASKS = list(PAIR_MASKS.values())  # which few files have
TOKENS = [*_IDS, *_MASKS]
"""Columns with the tokens of a pair."""


@dataclass(frozen=True)
class Trail:
    """The way from the pairs of a source back to where they come from."""

    steps: Sequence[str]
    """Steps of a round that must be committed, the pairs first."""
    findings: Callable[[Path, State, str], Iterator[str]]
    """What is wrong on it in a run; the last is a folder of pairs and all that they come from, such as rounds/01."""

    def of(self, job: Mapping[str, Any]) -> list[str]:
        """The steps for a job as a run records it, with those of its reward models behind the pairs."""
        models = len((job.get("reward") or {}).get("models", ()))
        return [*self.steps[:1], *(["scores", *phases(models)] if models else ()), *self.steps[1:]]


class Followed(Protocol):
    """A source of pairs, as far as one follows a checkpoint."""

    @property
    def trail(self) -> Trail: ...


def follow(run_dir: Path, state: State, number: int, sources: Mapping[str, Followed]) -> list[str]:
    """What is wrong on the way from a round's checkpoint back to its prompts, a line each; `sources` are those of
    pairs, by name."""
    folder = f"rounds/{number:02d}"
    made_by = [c.step for c in state.commits.values() if any(a.path == f"{folder}/checkpoint" for a in c.artifacts)]
    job = state.configs[-1]["job"]
    trail = sources[kind_of(job).name()].trail
    trained = ["train", "reference"] if reads_reference(job["loss"], number) else ["train"]
    places = [folder, f"{folder}/held_out"] if f"{folder}/retrain" in made_by else [folder]
    found = []
    for place in places:
        steps = [*(trained if place == folder else ()), *trail.of(job)]
        if missing := [step for step in steps if f"{place}/{step}" not in state.commits]:
            found += [f"{folder}/checkpoint: comes from {place}/{step}, which is not committed" for step in missing]
        else:
            found += _cut(f"{place}/pairs", trail.findings(run_dir, state, place))
    if f"{folder}/replay" in state.commits:
        found += _cut(f"{folder}/replay", _replayed(run_dir, state, f"{folder}/replay"))
    return found


def pair_files_trained_on(root: Path, round_number: int) -> list[Path]:
    """The files of pairs that the checkpoint of a round descends from, the oldest first; round 0 is the base model,
    of which they are known where it is another run's checkpoint.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a ledger record cannot be read.
    """
    state = open_run(root).state
    first = 1 if _job(root, state).get("init", "previous") == "previous" else max(1, round_number)
    steps = ["baseline/model"]  # its Parquet files are the pairs that came with it
    for folder in (f"rounds/{number:02d}" for number in range(first, round_number + 1)):
        steps += [f"{folder}/pairs", f"{folder}/replay"]
        if f"{folder}/retrain" in state.commits:
            steps.append(f"{folder}/held_out/pairs")
    return [file for step in steps for file in parquet_files(root, state, step)]


def pair_files_of_reference(root: Path, round_number: int) -> list[Path]:
    """The files of pairs that the reference of a round's loss descends from; as `pair_files_trained_on`."""
    state = open_run(root).state
    reference = _job(root, state).get("reference", "previous")
    if reference not in OWN_REFERENCES:
        return parquet_files(root, state, "baseline/reference")  # the pairs that came with it
    return pair_files_trained_on(root, round_number - 1 if reference == "previous" else 0)


def _job(root: Path, state: State) -> dict[str, Any]:
    if not state.configs:
        raise BadInput(f"{root}: this run was never started, so that nothing is known of what its models are made from")
    job: dict[str, Any] = state.configs[-1]["job"]
    return job


def _replayed(run_dir: Path, state: State, step: str) -> Iterator[str]:
    """Whether each replayed pair ("01:p7/0") is the earlier round's."""

    @functools.lru_cache(maxsize=1)  # they stand in the order of the rounds
    def pairs_of(number: str) -> dict[str, tuple[bytes, str | None, list[float | None]]]:
        rows = step_rows(run_dir, state, f"rounds/{number}/pairs", ["pair_id", *TOKENS, *FURTHER])
        return {row["pair_id"]: (all_ids(row), row.get(GROUP), _scores(row)) for row in rows}

    for row in step_rows(run_dir, state, step, ["pair_id", *TOKENS, *FURTHER]):
        (number, _, pair_id), group = row["pair_id"].partition(":"), row.get(GROUP)
        own = None if group is None else group.removeprefix(f"{number}:")
        if pairs_of(number).get(pair_id) != (all_ids(row), own, _scores(row)):
            yield f"{step}: pair {row['pair_id']!r} is no pair of rounds/{number}"


def _scores(row: dict[str, Any]) -> list[float | None]:
    return [row.get(name) for name in SCORES]


def all_ids(row: dict[str, Any]) -> bytes:
    """A digest of a pair's prompt and sides, of which the rejected one may be missing, and of masks if any."""
    sides = b"".join(b"" if row[ids] is None else digest(row[ids]) for ids in _IDS)
    return b"|".join([sides, *(mask_digest(row.get(mask)) for mask in _MASKS)])


def mask_digest(mask: list[bool] | None) -> bytes:
    """Empty where all tokens are the model's own."""
    return b"" if mask is None or all(mask) else hashlib.blake2b(bytes(mask), digest_size=16).digest()


def digest(ids: list[int]) -> bytes:
    """Of token ids."""
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def _cut(step: str, findings: Iterator[str]) -> list[str]:
    """The first findings, and how many more there are."""
    told = [line for line, _ in zip(findings, range(_MAX_TOLD), strict=False)]
    more = sum(1 for _ in findings)
    return told + ([f"{step}: {many(more, 'more finding')} like these"] if more else [])
