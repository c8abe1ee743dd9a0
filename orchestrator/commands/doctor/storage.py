"""The check `shared path`: can the ledger and the commits rest on this folder, from the driver and from every node?"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.commands.doctor.diagnosis import Facts, Finding, worst
from orchestrator.commands.doctor.examiner import Examiner
from orchestrator.driver.everywhere import DRIVER
from orchestrator.driver.nodes import Node

PATIENCE = 20.0
"""Seconds that a participant waits for what another has written."""
_MOST_WRITERS = 4
_AT_ONCE, _LATE = 0.0, 1.0
_SLOW_SYNC = 0.1  # seconds
_MOUNT = "on NFS mount it with lookupcache=positive and a small actimeo, or with noac"

Seen = Mapping[tuple[str, str], Mapping[str, float | None]]
"""By writer and reader: seconds until each kind of file was seen, None where it was not."""


def examine_storage(folder: Path, examiner: Examiner, nodes: Sequence[Node], limit: float, shared: Finding) -> Finding:
    """Try the folder from everywhere. `shared` says that all share it; `limit` is in seconds, of a question to all."""
    names = [DRIVER, *(node.name for node in nodes)]
    place = str(folder)

    def everywhere(probe: str, *arguments: Any) -> dict[str, Any]:
        told = examiner.storage(probe, (place, *arguments), limit, not nodes)
        return {DRIVER if node is None else node.name: answer for node, answer in told.items()}

    own = {name: name.replace("/", "-") for name in names}
    timed = everywhere("times", own)
    problems = _failures(timed)
    if problems:
        return worst(problems, shared)
    won = everywhere("race", own, len(names))
    seen: dict[tuple[str, str], Mapping[str, float | None]] = {}
    for writer in names[:_MOST_WRITERS]:
        seen |= _watched(writer, everywhere)
        if any(value is None or value > _LATE for found in seen.values() for value in found.values()):
            break  # which is known now, and takes its time
    return diagnose_storage(shared, timed, won, seen)


def _watched(writer: str, everywhere: Callable[..., dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """How soon all others see what one writes."""
    mark, text = writer.replace("/", "-").replace(" ", "-"), secrets.token_hex(8)
    everywhere("look", mark)
    written = everywhere("write_if", mark, text, {writer: True})
    if isinstance(written[writer], Exception):
        return {(writer, writer): written[writer]}
    told = everywhere("notice", mark, text, PATIENCE)
    return {(writer, reader): found for reader, found in told.items() if reader != writer}


def _failures(told: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("FAIL", f"{name}: {type(answer).__name__}: {answer}", "choose a folder that all nodes can write to")
        for name, answer in told.items()
        if isinstance(answer, Exception)
    ]


def diagnose_storage(
    shared: Finding, timed: Mapping[str, Any], won: Mapping[str, Any], seen: Mapping[tuple[str, str], Any]
) -> Finding:
    """What the folder is worth, which all share by the word of `shared`. The rest is what `workers.storage` tells by
    participant: seconds of operations; the numbers of the names that each took first; and by writer and reader how
    soon the one saw what the other wrote."""
    problems = [*_failures(won), *_failures({f"{a} to {b}": found for (a, b), found in seen.items()})]
    problems += _links(timed, won) + _delays(seen) + _syncs(timed)
    kinds = "/".join(sorted({said["kind"] for said in timed.values() if said["kind"]}))
    text = f"{shared.text}{f' ({kinds})' if kinds else ''}: {_times(timed)}{f'; {_soon(seen)}' if seen else ''}"
    facts: Facts = shared.facts | {"milliseconds": {name: _figures(said) for name, said in timed.items()}}
    facts["seen_after_seconds"] = [
        {"writer": writer, "reader": reader} | dict(found)
        for (writer, reader), found in seen.items()
        if not isinstance(found, Exception)
    ]
    told = worst(problems, Finding(shared.level, text, "", facts))
    return told if not problems else Finding(told.level, f"{told.text} ({_times(timed)})", told.cure, facts)


def _links(timed: Mapping[str, Any], won: Mapping[str, Any]) -> list[Finding]:
    """A name is taken once, whoever tries: else two drivers could both commit."""
    elsewhere = "choose another file system for the runs: no setting of Ratchet helps"
    found = [
        Finding(
            "FAIL", f"{name}: a link replaces a name that is taken, so that two drivers could both commit", elsewhere
        )
        for name, said in timed.items()
        if not said["exclusive"]
    ]
    taken = [number for numbers in won.values() if not isinstance(numbers, Exception) for number in numbers]
    if twice := len(taken) - len(set(taken)):
        text = f"{twice} names were taken by two participants at once, so that two drivers could both commit"
        found.append(Finding("FAIL", text, elsewhere))
    return found


def _delays(seen: Mapping[tuple[str, str], Any]) -> list[Finding]:
    problems = []
    for (writer, reader), found in seen.items():
        if isinstance(found, Exception):
            continue
        late = {kind: PATIENCE if value is None else value for kind, value in found.items()}
        told = {kind: "not within" if found[kind] is None else "after" for kind in late}
        if late["new"] > _AT_ONCE:
            text = f"{reader} sees a new file of {writer} {told['new']} {late['new']:.1f} s, and a run looks at once"
            problems.append(Finding("FAIL" if late["new"] > _LATE else "warn", text, _MOUNT))
        if late["awaited"] > _LATE:
            text = f"{reader} sees a file of {writer} that it had looked for {told['awaited']} {late['awaited']:.1f} s"
            text += ": a driver takes over so much later, and `status` is so old; nothing is committed twice"
            problems.append(Finding("warn", text, _MOUNT))
        if late["replaced"] > _LATE:
            text = f"{reader} reads what {writer} has written over {told['replaced']} {late['replaced']:.1f} s"
            problems.append(Finding("warn", f"{text}: `status` may take a living driver for a dead one", _MOUNT))
    return problems


def _syncs(timed: Mapping[str, Any]) -> list[Finding]:
    slow = {name: took for name, said in timed.items() if (took := median(said["fsync"])) > _SLOW_SYNC}
    text = "; ".join(f"{name}: an fsync takes {1000 * took:.0f} ms" for name, took in slow.items())
    cure = "each file and record has some: use larger shards (generate.shard_prompts), or a faster file system"
    return [Finding("warn", text, cure)] if slow else []


def _figures(said: Mapping[str, Any]) -> dict[str, list[float]]:
    """Median and worst, in milliseconds, by operation."""
    return {
        operation: [round(1000 * median(said[operation]), 3), round(1000 * max(said[operation]), 3)]
        for operation in ("link", "rename", "fsync")
    }


def _times(timed: Mapping[str, Any]) -> str:
    """The slowest participant's."""
    figures = [_figures(said) for said in timed.values()]
    told = []
    for operation in ("link", "rename", "fsync"):
        middle, most = (max(figure[operation][place] for figure in figures) for place in (0, 1))
        told.append(f"{operation} {middle:.2g} ms (at most {most:.2g})")
    return ", ".join(told)


def _soon(seen: Mapping[tuple[str, str], Any]) -> str:
    values = [value for found in seen.values() if not isinstance(found, Exception) for value in found.values()]
    most = max((PATIENCE if value is None else value for value in values), default=0.0)
    return f"each sees what another writes {'at once' if most <= 0 else f'within {most:.1f} s'}"
