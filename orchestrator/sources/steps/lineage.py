"""From pairs of reasoning steps back to the samples that they are of: what `ratchet verify` checks of Step-DPO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.ledger.ledger import State
from orchestrator.records.masks import PAIR_MASKS, SAMPLE_MASK
from orchestrator.reports.tables import step_rows

Key = tuple[str, str, int]
"""Folder, prompt id and sample index."""

_COLUMNS = ["pair_id", "prompt_id", "chosen_source", "chosen_sample", "rejected_sample"]
_IDS = ["prompt_token_ids", "chosen_token_ids", "rejected_token_ids"]
_MASKS = list(PAIR_MASKS.values())  # which few files have


def findings(run_dir: Path, state: State, folder: str) -> Iterator[str]:
    """What is wrong with a round's pairs: each side must be a piece of a committed sample of the right verdict, behind
    the very ids that it is trained behind."""
    pairs = list(step_rows(run_dir, state, f"{folder}/pairs", [*_COLUMNS, *_IDS, *_MASKS]))
    names = _prompt_names(run_dir, state, {folder, *(pair["chosen_source"] for pair in pairs)})
    sides: dict[Key, dict[str, Any]] = {}
    for pair in pairs:
        same = names.get((pair["chosen_source"], tuple(pair["prompt_token_ids"])), ())
        prefix = next((name for name in same if f"{name}:".startswith(f"{pair['prompt_id']}:")), "")
        pair["chosen_key"] = (pair["chosen_source"], prefix, pair["chosen_sample"])
        pair["rejected_key"] = (folder, pair["prompt_id"], pair["rejected_sample"])
        sides |= {pair[key]: {} for key in ("chosen_key", "rejected_key")}
    prompts = {name: list(ids) for (place, ids), same in names.items() if place == folder for name in same}
    _read(run_dir, state, sides)
    for pair in pairs:
        whole = prompts.get(pair["prompt_id"], [])
        yield from (f"{folder}/pairs: pair {pair['pair_id']!r}: {what}" for what in _check(pair, whole, sides))


def _check(pair: dict[str, Any], prompt: list[int], sides: dict[Key, dict[str, Any]]) -> Iterator[str]:
    chosen, rejected = sides[pair["chosen_key"]], sides[pair["rejected_key"]]
    ids, length = pair["prompt_token_ids"], len(pair["prompt_token_ids"])
    for side, sample, verdict in (("chosen", chosen, "correct"), ("rejected", rejected, "wrong")):
        if "token_ids" not in sample:
            yield f"its {side} side is of no committed sample"
        elif sample.get("verdict") != verdict:
            yield f"its {side} side is of a sample that was judged {sample.get('verdict')}, not {verdict}"
    if chosen and chosen["token_ids"][: len(pair["chosen_token_ids"])] != pair["chosen_token_ids"]:
        yield "its chosen side has other token ids than its sample begins with"
    if rejected and [*prompt, *rejected["token_ids"]][: length + len(pair["rejected_token_ids"])] != [
        *ids,
        *pair["rejected_token_ids"],
    ]:
        yield "its prompt and rejected side have other token ids than its sample begins with"
    for side, sample, first in (("chosen", chosen, 0), ("rejected", rejected, length - len(prompt))):
        stop = first + len(pair[f"{side}_token_ids"])
        if sample and not _same(pair.get(f"{side}_mask"), (sample.get(SAMPLE_MASK) or [])[first:stop]):
            yield f"its {side} side has another mask than its sample"


def _same(mask: list[bool] | None, expected: list[bool]) -> bool:
    """Whether two masks are the same; of one that leaves out nothing it is no matter how that is written."""
    return mask == expected if mask and not all(mask) else all(expected)


def _prompt_names(run_dir: Path, state: State, folders: set[str]) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    """By folder and token ids; several where problems have the same text."""
    names: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for folder in sorted(folders):
        for row in step_rows(run_dir, state, f"{folder}/prompts", ["prompt_id", "token_ids"]):
            names.setdefault((folder, tuple(row["token_ids"])), []).append(row["prompt_id"])
    return names


def _read(run_dir: Path, state: State, wanted: dict[Key, dict[str, Any]]) -> None:
    """Fill in the token ids and verdicts of the samples that are wanted."""
    for folder in sorted({folder for folder, _, _ in wanted}):
        for phase, columns in (("samples", ("token_ids", SAMPLE_MASK)), ("verdicts", ("verdict",))):
            for row in step_rows(run_dir, state, f"{folder}/{phase}", ["prompt_id", "sample_index", *columns]):
                if (found := wanted.get((folder, row["prompt_id"], row["sample_index"]))) is not None:
                    found |= {column: row[column] for column in columns if column in row}
