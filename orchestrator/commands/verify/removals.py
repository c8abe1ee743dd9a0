"""Which committed files a record may say were removed. Pure.

Removed on purpose are checkpoints beyond `keep.checkpoints`, by the loop and by `ratchet gc`; the candidates of a round
that has made its choice; verdicts of another version of the graders whose step is not committed. None of these says a
fact that `verify` computes again. Whoever names another file wants it not to be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.ledger.ledger import State, only_cleans
from orchestrator.ledger.record_files import Record
from orchestrator.rounds.spare import spare_checkpoints

_CHECKPOINT = re.compile(r"rounds/\d+/checkpoint")
_CANDIDATES = re.compile(r"(rounds/\d+)/candidates")
_TRAININGS = ("train", "retrain", "choice")


def undue(record: Record, state: State) -> list[str]:
    """The paths of a record that no driver would have removed where it stands; `state` is the fold of all before it."""
    data = record.data
    if record.kind == "claim" and only_cleans(data):
        named, may = data.get("paths", ()), set(_spare(state))
    elif record.kind == "discard":
        named, may = data["paths"], {*_spare(state), *_decided(data["paths"], state), *_to_grade_again(state)}
    elif record.kind == "commit":
        named, may = data.get("discarded", ()), set(_of_the_parent(data["step"], data["artifacts"], state))
    else:
        return []
    return [path for path in named if path not in may | state.discarded]


def _spare(state: State) -> Iterator[str]:
    keep = (state.configs[-1]["job"].get("keep") or {}).get("checkpoints") if state.configs else None
    yield from (path for path in spare_checkpoints(state, keep) if _CHECKPOINT.fullmatch(path))


def _decided(paths: list[str], state: State) -> Iterator[str]:
    for path in paths:
        if (found := _CANDIDATES.fullmatch(path)) and f"{found[1]}/choice" in state.commits:
            yield path


def _to_grade_again(state: State) -> Iterator[str]:
    for step in state.shards.keys() - state.commits.keys():
        if step.endswith("/verdicts"):
            yield from (shard.artifact.path for shard in state.shards[step].values())


def _of_the_parent(step: str, artifacts: list[dict[str, str]], state: State) -> Iterator[str]:
    """What a fork takes over without its files."""
    if (offer := state.offers.get((step, None))) is not None:
        for path in {artifact["path"] for artifact in artifacts} & set(offer.discarded):
            if _CHECKPOINT.fullmatch(path) or _CANDIDATES.fullmatch(path):
                yield path


def out_of_place(record: Record) -> list[str]:
    """The artifacts of a record that its step does not make: they would stand where a file may be removed, or where
    nobody looks for what the step tells."""
    data = record.data
    if record.kind == "shard":
        path = data["artifact"]["path"]
        return [] if re.fullmatch(rf"{re.escape(data['step'])}/\d+(\.\d+)?\.parquet", path) else [path]
    if record.kind != "commit":
        return []
    folder, _, phase = data["step"].rpartition("/")
    may = {data["step"]}
    if phase in _TRAININGS:
        may |= {f"{folder}/checkpoint", f"{folder}/candidates"}
    elif folder == "baseline":
        may |= {"baseline/seen", "baseline/reference-seen"}
    return [artifact["path"] for artifact in data["artifacts"] if artifact["path"] not in may]
