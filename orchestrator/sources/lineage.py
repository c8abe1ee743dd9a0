"""From pairs of whole samples back to these, their verdicts and prompts: what `ratchet verify` checks of them.

One shard is in memory at a time.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from orchestrator.config.learning import IMITATING
from orchestrator.ledger import waves
from orchestrator.ledger.ledger import State
from orchestrator.records.digests import SIZE, Places, digest_of
from orchestrator.records.masks import SAMPLE_MASK
from orchestrator.records.parquet import read_table
from orchestrator.reports.lineage import TOKENS, digest, mask_digest
from orchestrator.reports.tables import parquet_files, step_rows

SAMPLED = ("pairs", "verdicts", "samples", "prompts")
"""Steps that pairs of samples come from."""
Key = tuple[str, int]
Shard = dict[Key, tuple[str | None, bytes, bytes]]
"""Verdict and digests of the token ids and of their mask, by prompt id and sample index."""


class _Prompts:
    """Prompts by their ids: digests of what is in them, and which shard has their samples. Memory holds 64 bytes of
    each."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        ids, self._digests = bytearray(), bytearray()
        for row in rows:
            ids += digest_of(row["prompt_id"].encode())
            self._digests += digest(row["token_ids"]) + digest(row["solution_token_ids"] or [])
        self._places = Places(ids)
        self._shards, self._others = array("i", [_NONE]) * len(self._places), dict[str, int]()
        self._place = functools.lru_cache(maxsize=1)(lambda prompt_id: self._places.of(digest_of(prompt_id.encode())))

    def digests(self, prompt_id: str) -> tuple[bytes, bytes] | None:
        """Of its token ids and of those of its gold solution; None where it is not among the prompts."""
        if (place := self._place(prompt_id)) is None:
            return None
        both = bytes(self._digests[2 * SIZE * place : 2 * SIZE * (place + 1)])
        return both[:SIZE], both[SIZE:]

    def note_shard(self, prompt_id: str, index: int) -> int:
        """That a shard has samples of it; returns the first that was noted."""
        if (known := self.shard_of(prompt_id)) is not None:
            return known
        if (place := self._place(prompt_id)) is None:
            self._others[prompt_id] = index
        else:
            self._shards[place] = index
        return index

    def shard_of(self, prompt_id: str) -> int | None:
        """The shard that has samples of it, if any."""
        if (place := self._place(prompt_id)) is None:
            return self._others.get(prompt_id)
        return None if self._shards[place] == _NONE else self._shards[place]


_NONE = -1


class Sampled:
    """Prompts of one kind in a round, with everything that was made of them. `folder` is such as rounds/01."""

    def __init__(self, run_dir: Path, state: State, folder: str, imitates: bool = False, scored: bool = False) -> None:
        """`imitates`: pairs have no rejected side. `scored`: scores decide, not the verdicts."""
        self._run_dir, self._state, self._folder = run_dir, state, folder
        self._shards = {phase: waves.shards(state, folder, phase) for phase in ("samples", "verdicts")}
        """The files of each shard; more than one where the samples were drawn in waves."""
        self._hinted = (
            Sampled(run_dir, state, f"{folder}/hinted") if f"{folder}/hinted/prompts" in state.commits else None
        )
        pairs = state.configs[-1]["job"]["pairs"]
        self._imitates = imitates or pairs.get("rule") in IMITATING
        self._unfiltered = pairs.get("rule") == "unfiltered"
        self._judged = scored
        self._gold_alone = pairs.get("gold_as_chosen") == "only"
        self._any_rejected = pairs.get("rejected") == "any"
        self._prompts = _Prompts(self._rows("prompts", ["prompt_id", "token_ids", "solution_token_ids"]))
        # Pairs stand in the order of the shards.
        self._shard = functools.lru_cache(maxsize=1)(self._read_shard)
        self._scores = functools.lru_cache(maxsize=1)(self._read_scores)

    def findings(self) -> Iterator[str]:
        """What does not fit together of prompts, samples, verdicts and pairs, a line each."""
        yield from self.index()
        if self._hinted:
            yield from self._hinted.index()
        for pair in self._rows("pairs", ["pair_id", "prompt_id", "chosen_sample", "rejected_sample", *TOKENS]):
            yield from self._check_pair(pair)

    def index(self) -> Iterator[str]:
        """Learn which shard a prompt's samples are in."""
        samples, verdicts = self._shards["samples"], self._shards["verdicts"]
        for index in sorted(samples.keys() ^ verdicts.keys()):
            yield f"{self._folder}: shard {index} has samples or verdicts, but not both"
        for index in sorted(samples.keys() & verdicts.keys()):
            yield from self._check_keys(index)

    def _rows(self, phase: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        return step_rows(self._run_dir, self._state, f"{self._folder}/{phase}", columns)

    def _table(self, phase: str, index: int, *columns: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for artifact in self._shards[phase][index]:
            file = self._run_dir / artifact.path
            known = set(pq.read_schema(file).names)
            names = ["prompt_id", "sample_index", *(name for name in columns if name in known)]
            rows += read_table(file, columns=names).to_pylist()
        return rows

    def _check_keys(self, index: int) -> Iterator[str]:
        samples, verdicts = ([tuple(row.values()) for row in self._table(p, index)] for p in ("samples", "verdicts"))
        name = self._shards["samples"][index][0].path
        if len(set(samples)) < len(samples):
            yield f"{name}: a (prompt_id, sample_index) stands there more than once"
        if set(samples) != set(verdicts) or len(verdicts) != len(samples):
            yield f"{self._shards['verdicts'][index][0].path}: not one verdict for each sample"
        for prompt_id in sorted({str(key[0]) for key in samples}):
            if self._prompts.digests(prompt_id) is None:
                yield f"{name}: samples of {prompt_id!r}, which is not among the committed prompts"
            if (known := self._prompts.note_shard(prompt_id, index)) != index:
                yield f"{name}: samples of {prompt_id!r}, which has some in shard {known} already"

    def _read_shard(self, index: int) -> Shard:
        verdicts = {
            (r["prompt_id"], r["sample_index"]): r["verdict"] for r in self._table("verdicts", index, "verdict")
        }
        rows = self._table("samples", index, "token_ids", "finish_reason", SAMPLE_MASK)
        if self._unfiltered:  # in the place of a verdict, what decides instead
            ended = {"length": "cut off"}
            verdicts = {(r["prompt_id"], r["sample_index"]): ended.get(r["finish_reason"], "correct") for r in rows}
        keys = [(row["prompt_id"], row["sample_index"]) for row in rows]
        return {
            key: (verdicts.get(key), digest(row["token_ids"]), mask_digest(row.get(SAMPLE_MASK)))
            for key, row in zip(keys, rows, strict=True)
        }

    @functools.cached_property
    def _score_files(self) -> list[Path]:
        return parquet_files(self._run_dir, self._state, f"{self._folder}/scores")

    def _read_scores(self, index: int) -> dict[Key, float]:
        """What each sample's text was given on average, where it was given a score."""
        if index >= len(self._score_files):
            raise ValueError(f"{self._folder}/scores has no scores of shard {index}")
        rows = read_table(self._score_files[index], columns=["prompt_id", "sample_index", "score"]).to_pylist()
        scores = {(row["prompt_id"], row["sample_index"]): row["score"] for row in rows if row["score"] is not None}
        texts = {(row["prompt_id"], row["sample_index"]): row["text"] for row in self._table("samples", index, "text")}
        given: dict[tuple[str, str], list[float]] = {}
        for key, score in scores.items():
            given.setdefault((key[0], texts[key]), []).append(score)
        return {key: fmean(given[key[0], texts[key]]) for key in scores}

    def _check_pair(self, pair: dict[str, Any]) -> Iterator[str]:
        name, prompt_id = f"{self._folder}/pairs: pair {pair['pair_id']!r}", pair["prompt_id"]
        if (digests := self._prompts.digests(prompt_id)) is None:
            yield f"{name}: its prompt {prompt_id!r} is not among the committed prompts"
            return
        prompt, solution = digests
        if digest(pair["prompt_token_ids"]) != prompt:
            yield f"{name}: its prompt has other token ids than {prompt_id!r}"
        for side, wanted_verdict in (("chosen", "correct"), ("rejected", "wrong")):
            if side == "rejected" and self._imitates != (pair["rejected_token_ids"] is None):
                yield f"{name}: it has {'a' if self._imitates else 'no'} rejected side"
            if pair[f"{side}_token_ids"] is None:  # the chosen side is imitated
                continue
            sample, ids = pair[f"{side}_sample"], digest(pair[f"{side}_token_ids"])
            mask = mask_digest(pair.get(f"{side}_mask"))
            if sample is None and side == "chosen":  # the gold solution
                if ids != solution:
                    yield f"{name}: its chosen side has other token ids than the gold solution"
                elif mask:
                    yield f"{name}: its chosen side has a mask, and is the gold solution"
                continue
            verdict, expected, expected_mask = self._sample(prompt_id, sample, wanted_verdict)
            any_verdict = self._judged or (side == "rejected" and self._any_rejected)
            if not expected:
                yield f"{name}: its {side} sample {sample} is not among the committed samples"
            elif side == "chosen" and self._gold_alone:
                yield f"{name}: its chosen side is sample {sample}, not the gold solution"
            elif verdict != wanted_verdict and not any_verdict:
                was = f"was {verdict}" if self._unfiltered else f"was judged {verdict}, not {wanted_verdict}"
                yield f"{name}: its {side} sample {sample} {was}"
            elif ids != expected:
                yield f"{name}: its {side} side has other token ids than sample {sample}"
            elif mask != expected_mask:
                yield f"{name}: its {side} side has another mask than sample {sample}"
        if self._judged and (index := self._prompts.shard_of(prompt_id)) is not None:
            yield from (f"{name}: {what}" for what in self._misjudged(pair, self._scores(index)))

    def _misjudged(self, pair: dict[str, Any], scores: dict[Key, float]) -> Iterator[str]:
        """What of a pair is not as the scores say."""
        prompt_id = pair["prompt_id"]
        chosen, rejected = (scores.get((prompt_id, pair[f"{side}_sample"])) for side in ("chosen", "rejected"))
        if self._imitates:
            highest = max((given for (prompt, _), given in scores.items() if prompt == prompt_id), default=None)
            if chosen is None or chosen != highest:
                yield f"its chosen sample has the score {chosen}, and the highest of its prompt is {highest}"
        elif chosen is None or rejected is None or chosen <= rejected:
            yield f"its chosen sample has the score {chosen}, its rejected one {rejected}"

    def _sample(self, prompt_id: str, index: int, wanted: str) -> tuple[str | None, bytes, bytes]:
        """Verdict and digests of a sample; where it was not as wanted and hints were given, of the hinted one."""
        shard_index = self._prompts.shard_of(prompt_id)
        shard = {} if shard_index is None else self._shard(shard_index)
        found = shard.get((prompt_id, index), (None, b"", b""))
        return self._hinted._sample(prompt_id, index, wanted) if self._hinted and found[0] != wanted else found
