"""The names of a round's steps where its samples are drawn in waves (`generate.wave_samples`).

The first wave is the round's own samples and verdicts. The later ones stand below it, and shard i of each has prompts
of shard i of the first."""

from __future__ import annotations

import itertools
import re

from orchestrator.ledger.ledger import Artifact, State

PARTS = r"wave/\d+"
"""A pattern of the parts of a round that the later waves are."""


def part(wave: int) -> str:
    """Which part of its round a later wave is, from 2."""
    return f"wave/{wave:02d}"


def round_of(folder: str) -> str | None:
    """The folder of the round of which `folder` (rounds/01/wave/02) is a later wave; None where it is none."""
    found = re.fullmatch(rf"(rounds/\d+)/{PARTS}", folder)
    return found[1] if found else None


def folders(state: State, folder: str) -> list[str]:
    """Those of the waves that something was sampled for, the round's own first."""
    later = (f"{folder}/{part(wave)}" for wave in itertools.count(2))
    return [folder, *itertools.takewhile(lambda name: f"{name}/samples" in state.shards, later)]


def shards(state: State, folder: str, phase: str) -> dict[int, list[Artifact]]:
    """The committed shards of samples or verdicts, by index: that of the first wave, and those of the later ones."""
    found: dict[int, list[Artifact]] = {}
    for wave in folders(state, folder):
        for index, shard in sorted(state.shards.get(f"{wave}/{phase}", {}).items()):
            found.setdefault(index, []).append(shard.artifact)
    return dict(sorted(found.items()))


def phase_of_wave(phase: str) -> str:
    """What a phase of a round is a part of, in all waves together: `verdicts` of wave/02/verdicts; else it itself."""
    if not phase.startswith("wave/"):  # nearly all; a report asks this of every phase for every figure
        return phase
    return re.sub(rf"^{PARTS}/", "", phase)
