"""What the files of a step say in figures. The workers count so when they write a file, and `verify` when it looks
whether a record tells of a file what is in it."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean, variance
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.records.digests import digest_of, repeated
from orchestrator.records.pair_ids import PairIds, completion_keys
from orchestrator.records.rows import CAUSES

SIDES = ("chosen", "rejected")


def samples(table: pa.Table) -> dict[str, int]:
    """Of a table of samples (`num_tokens` and `finish_reason` are enough of it): samples, tokens (whosesoever they
    are), truncated."""
    return {
        "samples": table.num_rows,
        "tokens": pc.sum(table["num_tokens"]).as_py() or 0,
        "truncated": pc.sum(pc.equal(table["finish_reason"], "length")).as_py() or 0,
    }


def verdicts(said: Sequence[str], causes: Sequence[str | None], rules: Sequence[str | None]) -> dict[str, Any]:
    """How many verdicts are correct, wrong or ungradable, of the last how many for which cause, and by which `rules`
    answers were found."""
    found, why = Counter(said), Counter(causes)
    counts = {name: found[name] for name in ("correct", "wrong", "ungradable")}
    return counts | {cause: why[cause] for cause in CAUSES} | {"rules": dict(Counter(rule or "none" for rule in rules))}


BY_PROMPT = ("prompts_mixed", "prompts_all_correct", "prompts_all_wrong", *(f"prompts_{cause}" for cause in CAUSES))


def by_prompt(
    prompts: Sequence[str], said: Sequence[str], causes: Sequence[str | None], extracted: Sequence[str | None]
) -> dict[str, int]:
    """How many prompts have verdicts of which kind, from columns of verdicts: `prompts_mixed` have right and wrong
    samples, the next two only such, whatever is ungradable besides; those without either are counted by the cause that
    most of their samples have, as `prompts_truncated` and so on. Each prompt is in one of them. `distinct_answers` is
    the number of different answers of a prompt, summed over the prompts."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for prompt, verdict, cause, answer in zip(prompts, said, causes, extracted, strict=True):
        found[prompt][verdict if verdict in ("correct", "wrong") else cause or "failed"] += 1
        if answer is not None:
            answers[prompt].add(answer)
    kinds = Counter(_kind(verdicts_of) for verdicts_of in found.values())
    return {name: kinds[name] for name in BY_PROMPT} | {"distinct_answers": sum(map(len, answers.values()))}


def _kind(verdicts_of: Counter[str]) -> str:
    right, wrong = verdicts_of["correct"], verdicts_of["wrong"]
    if right or wrong:
        return f"prompts_{'mixed' if right and wrong else 'all_correct' if right else 'all_wrong'}"
    return f"prompts_{max(CAUSES, key=lambda cause: verdicts_of[cause])}"


def disputed(opinions: Mapping[str, str] | None) -> bool:
    """Whether one grader says correct and another one does not."""
    return len({verdict == "correct" for verdict in (opinions or {}).values()}) > 1


def side_lengths(table: pa.Table) -> dict[str, int]:
    """Tokens of each side of a table of pairs, summed, whosesoever they are."""
    lengths = {side: pc.list_value_length(table[f"{side}_token_ids"]) for side in SIDES}
    return {side: pc.sum(length).as_py() or 0 for side, length in lengths.items()}


def mean_lengths(tokens: Mapping[str, int], num_pairs: int) -> dict[str, float]:
    """Mean tokens of each side; of one that no pair has, nothing."""
    return {f"{side}_tokens": count / max(num_pairs, 1) for side, count in tokens.items() if count}


def longest(pair: PairIds) -> int:
    """Tokens of the longer side, prompt included, whosesoever they are."""
    return len(pair.prompt) + max(len(pair.chosen), 0 if pair.rejected is None else len(pair.rejected))


def trained_pairs(pairs: Callable[[], Iterable[PairIds]], dropped: int) -> dict[str, int]:
    """Of the pairs of a training, `dropped` not among them, which were too long. `pairs` gives them, each time anew.

    Pairs of a prompt stand together, so that its completions are forgotten behind them. Those of a prompt that comes
    again, such as of an earlier round, are counted once more.
    """
    number, completions, prompts = 0, 0, bytearray()
    for prompt, count, keys in _by_prompt(pairs()):
        number, completions = number + count, completions + len(keys)
        prompts += prompt
    if again := repeated(prompts):
        different = set[str]()
        for prompt, _, keys in _by_prompt(pairs()):
            if prompt in again:
                different.update(keys)
                completions -= len(keys)
        completions += len(different)
    return {"pairs": number, "dropped_pairs": dropped, "distinct_completions": completions}


def _by_prompt(pairs: Iterable[PairIds]) -> Iterator[tuple[bytes, int, set[str]]]:
    """A digest of each prompt's token ids, and of its pairs that stand together their number and the names of their
    completions."""
    for prompt, together in groupby(pairs, lambda pair: np.asarray(pair.prompt, "<i4").tobytes()):
        number, keys = 0, set[str]()
        for pair in together:
            number += 1
            keys.update(completion_keys(pair))
        yield digest_of(prompt), number, keys


def metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a training's metrics, a row an update, what they tell of these: steps, the last loss, tokens, padded_tokens.
    Tokens are those that were computed, scored or not. `trend` has what became of log-probabilities, in nats: see the
    function."""
    found: dict[str, Any] = {"steps": len(rows)}
    if rows and "loss" in rows[-1]:
        found["loss"] = rows[-1]["loss"]
    trends = {name: trend([row.get(name) for row in rows]) for name in TRENDS}
    if any(trends.values()):
        found["trend"] = {name: ends for name, ends in trends.items() if ends}
    known = [name for name in ("tokens", "padded_tokens") if rows and name in rows[0]]
    return found | {name: sum(row[name] for row in rows) for name in known}


TRENDS = ("chosen_logprob", "rejected_logprob")
"""Metrics of which a training's facts tell the trend."""


def trend(values: Sequence[float | None]) -> dict[str, float]:
    """What became of a metric, by update: the means of its `first` and of its `last` quarter, and the standard `error`
    of their difference, where a quarter has two updates; what is no number is passed over. Empty without any."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return {}
    quarter = max(1, len(known) // 4)
    ends = known[:quarter], known[-quarter:]
    found = {"first": fmean(ends[0]), "last": fmean(ends[1])}
    return found | ({"error": math.sqrt(sum(variance(end) / quarter for end in ends))} if quarter > 1 else {})


def scored(lengths: Iterable[int]) -> dict[str, int]:
    """Of the completions that a model was asked about, by the numbers of their tokens that it was asked about."""
    number = tokens = 0
    for length in lengths:
        number, tokens = number + 1, tokens + length
    return {"distinct_completions": number, "completion_tokens": tokens}


class Logprobs(Protocol):
    """Summed log-probabilities by completion key, in nats; a dictionary, or what takes less room."""

    def __getitem__(self, key: str, /) -> float: ...


def preferences(pairs: Iterable[PairIds], logprobs: Logprobs, reference: Logprobs | None = None) -> dict[str, float]:
    """What a model makes of pairs, from summed log-probabilities by completion key. Means over pairs, in nats.

    `chosen_logprob` and `rejected_logprob`; `gamma`, their difference (arXiv 2403.19270); `ranking_accuracy`, the share
    of pairs where it is positive; and where a reference's log-probabilities are given, `reward_accuracy`, the share
    where it is larger than the reference's. Empty where nothing is rejected.
    """
    sides, differences = (array("d"), array("d")), array("d")
    for keys in (completion_keys(pair) for pair in pairs if pair.rejected is not None):
        for side, key in zip(sides, keys, strict=True):
            side.append(logprobs[key])
        if reference is not None:
            differences.append(reference[keys[0]] - reference[keys[1]])
    if not sides[0]:
        return {}
    chosen, rejected = map(np.array, sides)
    gamma = chosen - rejected
    facts = {
        "ranking_accuracy": float(np.mean(gamma > 0)),
        "gamma": float(np.mean(gamma)),
        "chosen_logprob": float(np.mean(chosen)),
        "rejected_logprob": float(np.mean(rejected)),
    }
    if reference is not None:
        facts["reward_accuracy"] = float(np.mean(gamma > np.array(differences)))
    return facts
