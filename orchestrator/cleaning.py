"""What a run can do without, and `ratchet gc`, which removes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.ledger import State, probe_links
from orchestrator.run import Run, remove
from orchestrator.status import open_run

# Names that only a driver at work gives: what a step is writing (rounds/01/.pairs-e2), what stood in the way of a
# committed file, and the temporary files of `durable`.
_TEMPORARY = re.compile(r"\.(.+-e\d+|stray-[0-9a-f]{8}-.+|.+\.[0-9a-f]{32}|probe-\d+-\d+)")
_STATES = re.compile(r"\.(.+)-state-of-\d+")


@dataclass(frozen=True)
class Waste:
    """Something that can go. `path` is relative to the run."""

    path: str
    why: str
    size: int
    """Bytes on the disk; those of a file that another run shares are only free when that run's name is gone too."""
    committed: bool = False


def spare_checkpoints(state: State, keep: int | None) -> list[str]:
    """Paths of the promoted checkpoints that are neither among the newest `keep` (None: all), nor the current
    reference, nor the best on the gate problems (of equals the earliest, as in the loop)."""
    promoted = [promotion for promotion in state.promotions if promotion["promoted"]]
    if keep is None or not promoted:
        return []

    def gate_accuracy(number: int) -> float:
        commit = state.commits.get(f"rounds/{number:02d}/evaluation")
        return float(((commit and commit.facts.get("gate")) or {}).get("accuracy", 0.0))

    best = max(promoted, key=lambda promotion: gate_accuracy(promotion["round"]))
    # Where graders of several versions had a say, accuracies are not to be compared: the loop has noted its own best.
    needed = {
        best["reference"],
        state.promotions[-1].get("best"),
        state.promotions[-1]["reference"],
        *(p["reference"] for p in promoted[-keep:]),
    }
    return [p["reference"] for p in promoted if p["reference"] not in needed | state.discarded]


def waste(run_dir: Path) -> list[Waste]:
    """What no promoted checkpoint needs.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a ledger record cannot be read.
    """
    state = open_run(run_dir).state
    keep = state.configs[-1]["job"].get("keep", {}).get("checkpoints") if state.configs else None
    found = [
        Waste(path, "checkpoint beyond keep.checkpoints", _size(run_dir / path), committed=True)
        for path in spare_checkpoints(state, keep)
    ]
    for path, why in (*_untaken(run_dir, state), *_left_behind(run_dir, state)):
        found.append(Waste(str(path.relative_to(run_dir)), why, _size(path)))
    return found


def clean(run_dir: Path, driver: dict[str, Any]) -> list[Waste]:
    """Remove what `waste` finds; returns that. It claims the run as this `driver`, which displaces any other."""
    found = waste(run_dir)
    if found:
        probe_links(run_dir)
        run = Run(run_dir)
        before = run.ledger.state.end or {"state": "interrupted", "reason": "its driver died"}
        run.claim(driver)
        for item in found:
            if item.committed:
                run.discard(item.path)
            else:
                remove(run_dir / item.path)
        run.end(before["state"], before["reason"])
    return found


def _untaken(run_dir: Path, state: State) -> Iterator[tuple[Path, str]]:
    """Offers that nobody will take: what they stand for is committed, or the run is over."""
    over = state.end is not None and state.end["state"] in ("finished", "stopped")
    for offer in state.offers.values():
        if over or offer.step in state.commits or offer.index in state.shards.get(offer.step, {}):
            paths = (run_dir / artifact.hidden for artifact in offer.artifacts)
            yield from ((path, "offer that was not taken") for path in paths if path.exists())


def _left_behind(run_dir: Path, state: State) -> Iterator[tuple[Path, str]]:
    """Hidden files and folders that dead drivers left."""
    # Committed, but a crash came before the final name: the next driver gives it.
    needed = {run_dir / a.hidden for a in state.artifacts() if not (run_dir / a.path).exists()}
    for folder, folders, files in os.walk(run_dir):
        here = Path(folder)
        if here == run_dir:
            folders[:] = [name for name in folders if name in ("baseline", "ledger", "rounds")]
        for path in (here / name for name in (*folders, *files) if name.startswith(".")):
            states = _STATES.fullmatch(path.name)
            if _TEMPORARY.fullmatch(path.name) and path not in needed:
                yield path, "left by a dead driver"
            elif states and str((here / states[1]).relative_to(run_dir)) in state.commits:
                yield path, "states of a finished training"
        folders[:] = [name for name in folders if not name.startswith(".")]


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
