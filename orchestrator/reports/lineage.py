"""From a promoted checkpoint back to its prompts: weights, training, pairs, verdicts, samples, prompts.

Hashes say that a file is what was committed; this says that what was committed belongs together. One shard is in
memory at a time. What grows with a round is a digest a prompt, and where replayed, a digest a pair.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from orchestrator.config import OWN_REFERENCES, at_round
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import State
from orchestrator.records.masks import PAIR_MASKS, SAMPLE_MASK, mask_columns
from orchestrator.reports.status import open_run
from orchestrator.reports.tables import parquet_files, step_rows
from orchestrator.sources.steps import lineage as step_lineage

_MAX_TOLD = 20
_SAMPLED = ("pairs", "verdicts", "samples", "prompts")
_STEPS: Mapping[str, Sequence[str]] = {
    "sample": _SAMPLED,
    "steps": _SAMPLED,
    "judge": ("pairs", "scores", *(f"judged/{step}" for step in _SAMPLED[1:]), *_SAMPLED[1:]),
    "gold": ("pairs", "prompts"),
    "dataset": ("pairs",),
}
"""What a round's pairs come from, by the job's source."""
_IDS = ["prompt_token_ids", "chosen_token_ids", "rejected_token_ids"]
_MASKS = list(PAIR_MASKS.values())  # which few files have

Key = tuple[str, int]
Shard = dict[Key, tuple[str | None, bytes, bytes]]
"""Verdict and digests of the token ids and of their mask, by prompt id and sample index."""


def follow(run_dir: Path, state: State, number: int) -> list[str]:
    """What is wrong on the way from a round's checkpoint back to its prompts, a line each."""
    folder = f"rounds/{number:02d}"
    made_by = [c.step for c in state.commits.values() if any(a.path == f"{folder}/checkpoint" for a in c.artifacts)]
    job = state.configs[-1]["job"]
    source, dpo = job.get("source", "sample"), job["loss"]["dpo"]
    trained = ["train", "reference"] if at_round(dpo, number) else ["train"]
    places = [folder, f"{folder}/held_out"] if f"{folder}/retrain" in made_by else [folder]
    found = []
    for place in places:
        steps = [*(trained if place == folder else ()), *_STEPS[source]]
        if missing := [step for step in steps if f"{place}/{step}" not in state.commits]:
            found += [f"{folder}/checkpoint: comes from {place}/{step}, which is not committed" for step in missing]
        elif source in ("sample", "judge", "gold"):
            found += _cut(f"{place}/pairs", Sampled(run_dir, state, place).findings())
        elif source == "steps":
            found += _cut(f"{place}/pairs", step_lineage.findings(run_dir, state, place))
        elif source == "dataset":
            found += _cut(f"{place}/pairs", _staged(run_dir, state, f"{place}/pairs"))
    if f"{folder}/replay" in state.commits:
        found += _cut(f"{folder}/replay", _replayed(run_dir, state, f"{folder}/replay"))
    return found


def pair_files_trained_on(root: Path, round_number: int) -> list[Path]:
    """The files of pairs that the checkpoint of a round descends from, the oldest first; round 0 is the seed model,
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


class Sampled:
    """Prompts of one kind in a round, with everything that was made of them. `folder` is such as rounds/01."""

    def __init__(self, run_dir: Path, state: State, folder: str) -> None:
        self._run_dir, self._state, self._folder = run_dir, state, folder
        self._shards = {phase: state.shards.get(f"{folder}/{phase}", {}) for phase in ("samples", "verdicts")}
        self._hinted = (
            Sampled(run_dir, state, f"{folder}/hinted") if f"{folder}/hinted/prompts" in state.commits else None
        )
        job = state.configs[-1]["job"]
        pairs = job["pairs"]
        self._imitates = job.get("source") == "gold" or pairs.get("rule") == "correct"
        self._judged = f"{folder}/scores" in state.commits  # the model's own scores decide, not the verdicts
        self._gold_alone = pairs.get("gold_as_chosen") == "only"
        self._any_rejected = pairs.get("rejected") == "any"
        self._shard_of: dict[str, int] = {}
        self._prompts = {
            row["prompt_id"]: (_digest(row["token_ids"]), _digest(row["solution_token_ids"] or []))
            for row in self._rows("prompts", ["prompt_id", "token_ids", "solution_token_ids"])
        }
        # Pairs stand in the order of the shards.
        self._shard = functools.lru_cache(maxsize=1)(self._read_shard)
        self._scores = functools.lru_cache(maxsize=1)(self._read_scores)

    def findings(self) -> Iterator[str]:
        """What does not fit together of prompts, samples, verdicts and pairs, a line each."""
        yield from self._index()
        if self._hinted:
            yield from self._hinted._index()
        columns = ["pair_id", "prompt_id", "chosen_sample", "rejected_sample", *_IDS, *_MASKS]
        for pair in self._rows("pairs", columns):
            yield from self._check_pair(pair)

    def _index(self) -> Iterator[str]:
        """Learn which shard a prompt's samples are in."""
        samples, verdicts = self._shards["samples"], self._shards["verdicts"]
        for index in sorted(samples.keys() ^ verdicts.keys()):
            yield f"{self._folder}: shard {index} has samples or verdicts, but not both"
        for index in sorted(samples.keys() & verdicts.keys()):
            yield from self._check_keys(index)

    def _rows(self, phase: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        return step_rows(self._run_dir, self._state, f"{self._folder}/{phase}", columns)

    def _table(self, phase: str, index: int, *columns: str) -> list[dict[str, Any]]:
        file = self._run_dir / self._shards[phase][index].artifact.path
        rows: list[dict[str, Any]] = pq.read_table(file, columns=["prompt_id", "sample_index", *columns]).to_pylist()
        return rows

    def _check_keys(self, index: int) -> Iterator[str]:
        samples, verdicts = ([tuple(row.values()) for row in self._table(p, index)] for p in ("samples", "verdicts"))
        name = self._shards["samples"][index].artifact.path
        if len(set(samples)) < len(samples):
            yield f"{name}: a (prompt_id, sample_index) stands there more than once"
        if set(samples) != set(verdicts) or len(verdicts) != len(samples):
            yield f"{self._shards['verdicts'][index].artifact.path}: not one verdict for each sample"
        for prompt_id in sorted({str(key[0]) for key in samples}):
            if prompt_id not in self._prompts:
                yield f"{name}: samples of {prompt_id!r}, which is not among the committed prompts"
            if self._shard_of.setdefault(prompt_id, index) != index:
                yield f"{name}: samples of {prompt_id!r}, which has some in shard {self._shard_of[prompt_id]} already"

    def _read_shard(self, index: int) -> Shard:
        verdicts = {
            (r["prompt_id"], r["sample_index"]): r["verdict"] for r in self._table("verdicts", index, "verdict")
        }
        file = self._run_dir / self._shards["samples"][index].artifact.path
        rows = self._table("samples", index, "token_ids", *mask_columns(pq.read_schema(file)))
        keys = [(row["prompt_id"], row["sample_index"]) for row in rows]
        return {
            key: (verdicts.get(key), _digest(row["token_ids"]), _mask_digest(row.get(SAMPLE_MASK)))
            for key, row in zip(keys, rows, strict=True)
        }

    @functools.cached_property
    def _score_files(self) -> list[Path]:
        return parquet_files(self._run_dir, self._state, f"{self._folder}/scores")

    def _read_scores(self, index: int) -> dict[Key, float]:
        """What each sample's text was given on average, where it was given a score."""
        if index >= len(self._score_files):
            raise ValueError(f"{self._folder}/scores has no scores of shard {index}")
        rows = pq.read_table(self._score_files[index], columns=["prompt_id", "sample_index", "score"]).to_pylist()
        scores = {(row["prompt_id"], row["sample_index"]): row["score"] for row in rows if row["score"] is not None}
        texts = {(row["prompt_id"], row["sample_index"]): row["text"] for row in self._table("samples", index, "text")}
        given: dict[tuple[str, str], list[float]] = {}
        for key, score in scores.items():
            given.setdefault((key[0], texts[key]), []).append(score)
        return {key: fmean(given[key[0], texts[key]]) for key in scores}

    def _check_pair(self, pair: dict[str, Any]) -> Iterator[str]:
        name, prompt_id = f"{self._folder}/pairs: pair {pair['pair_id']!r}", pair["prompt_id"]
        if prompt_id not in self._prompts:
            yield f"{name}: its prompt {prompt_id!r} is not among the committed prompts"
            return
        prompt, solution = self._prompts[prompt_id]
        if _digest(pair["prompt_token_ids"]) != prompt:
            yield f"{name}: its prompt has other token ids than {prompt_id!r}"
        for side, wanted in (("chosen", "correct"), ("rejected", "wrong")):
            if side == "rejected" and self._imitates != (pair["rejected_token_ids"] is None):
                yield f"{name}: it has {'a' if self._imitates else 'no'} rejected side"
            if pair[f"{side}_token_ids"] is None:  # the chosen side is imitated
                continue
            sample, ids = pair[f"{side}_sample"], _digest(pair[f"{side}_token_ids"])
            mask = _mask_digest(pair.get(f"{side}_mask"))
            if sample is None and side == "chosen":  # the gold solution
                if ids != solution:
                    yield f"{name}: its chosen side has other token ids than the gold solution"
                elif mask:
                    yield f"{name}: its chosen side has a mask, and is the gold solution"
                continue
            verdict, expected, expected_mask = self._sample(prompt_id, sample, wanted)
            any_verdict = self._judged or (side == "rejected" and self._any_rejected)
            if not expected:
                yield f"{name}: its {side} sample {sample} is not among the committed samples"
            elif side == "chosen" and self._gold_alone:
                yield f"{name}: its chosen side is sample {sample}, not the gold solution"
            elif verdict != wanted and not any_verdict:
                yield f"{name}: its {side} sample {sample} was judged {verdict}, not {wanted}"
            elif ids != expected:
                yield f"{name}: its {side} side has other token ids than sample {sample}"
            elif mask != expected_mask:
                yield f"{name}: its {side} side has another mask than sample {sample}"
        if self._judged and prompt_id in self._shard_of:
            scores = self._scores(self._shard_of[prompt_id])
            chosen, rejected = (scores.get((prompt_id, pair[f"{side}_sample"])) for side in ("chosen", "rejected"))
            if chosen is None or rejected is None or chosen <= rejected:
                yield f"{name}: its chosen sample has the score {chosen}, its rejected one {rejected}"

    def _sample(self, prompt_id: str, index: int, wanted: str) -> tuple[str | None, bytes, bytes]:
        """Verdict and digests of a sample; where it was not as wanted and hints were given, of the hinted one."""
        shard = self._shard(self._shard_of[prompt_id]) if prompt_id in self._shard_of else {}
        found = shard.get((prompt_id, index), (None, b"", b""))
        return self._hinted._sample(prompt_id, index, wanted) if self._hinted and found[0] != wanted else found


def _staged(run_dir: Path, state: State, step: str) -> Iterator[str]:
    """Whether each pair of a stage is one of the preference data that the run has tokenised."""
    whole = step_rows(run_dir, state, "baseline/chunks", ["pair_id", *_IDS, *_MASKS])
    chunks = {row["pair_id"]: _all_ids(row) for row in whole}
    for row in step_rows(run_dir, state, step, ["pair_id", *_IDS, *_MASKS]):
        if chunks.get(row["pair_id"]) != _all_ids(row):
            yield f"{step}: pair {row['pair_id']!r} is no pair of baseline/chunks"


def _replayed(run_dir: Path, state: State, step: str) -> Iterator[str]:
    """Whether each replayed pair ("01:p7/0") is the earlier round's."""

    @functools.lru_cache(maxsize=1)  # they stand in the order of the rounds
    def pairs_of(number: str) -> dict[str, bytes]:
        rows = step_rows(run_dir, state, f"rounds/{number}/pairs", ["pair_id", *_IDS, *_MASKS])
        return {row["pair_id"]: _all_ids(row) for row in rows}

    for row in step_rows(run_dir, state, step, ["pair_id", *_IDS, *_MASKS]):
        number, _, pair_id = row["pair_id"].partition(":")
        if pairs_of(number).get(pair_id) != _all_ids(row):
            yield f"{step}: pair {row['pair_id']!r} is no pair of rounds/{number}"


def _all_ids(row: dict[str, Any]) -> bytes:
    """A digest of a pair's prompt and sides, of which the rejected one may be missing, and of masks if any."""
    sides = b"".join(b"" if row[ids] is None else _digest(row[ids]) for ids in _IDS)
    return b"|".join([sides, *(_mask_digest(row.get(mask)) for mask in _MASKS)])


def _digest(ids: list[int]) -> bytes:
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def _mask_digest(mask: list[bool] | None) -> bytes:
    """Empty where all tokens are the model's own."""
    return b"" if mask is None or all(mask) else hashlib.blake2b(bytes(mask), digest_size=16).digest()


def _cut(step: str, findings: Iterator[str]) -> list[str]:
    """The first findings, and how many more there are."""
    told = [line for line, _ in zip(findings, range(_MAX_TOLD), strict=False)]
    more = sum(1 for _ in findings)
    return told + ([f"{step}: {more} more findings like these"] if more else [])
