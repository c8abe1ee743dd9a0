"""Finding the first wrong step: binary search beside a scan of all prefixes, on chains whose first error is known.

    python -m benchmarks.localisation [--chains 4000] [--rollouts 8] [--threshold 0.25] [--seed 0] [--json]

No model: a rollout from a right prefix reaches the gold answer with chance `solves`, one from a wrong prefix with
chance `recovers`. So the table shows what the search costs and what noise does to it, not how good any model is.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measured import cpu_seconds, report
from orchestrator.sources.steps.answers import BinarySearch, is_right


class LinearScan:
    """What binary search is compared with: one prefix after the other, until one is wrong."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps, self._right, self._found = num_steps, 0, False

    def probe(self) -> int | None:
        """As BinarySearch."""
        return None if self._found or self._right + 1 == self._num_steps else self._right + 1

    def tell(self, right: bool | None) -> None:
        """As BinarySearch; a prefix of which nothing is known is passed over."""
        self._right, self._found = (self._right, True) if right is False else (self._right + 1, False)

    @property
    def first_wrong(self) -> int:
        return self._right + 1


Search = BinarySearch | LinearScan
SEARCHES: dict[str, Callable[[int], Search]] = {"binary": BinarySearch, "linear": LinearScan}


@dataclass(frozen=True)
class Noise:
    """How rollouts come out. Example: Noise(solves=0.9, recovers=0.05, rollouts=8, threshold=0.25)"""

    solves: float
    recovers: float
    rollouts: int
    threshold: float

    def says_right(self, right: bool, dice: random.Random) -> bool | None:
        """What the rollouts say of a prefix."""
        chance = self.solves if right else self.recovers
        correct = sum(dice.random() < chance for _ in range(self.rollouts))
        return is_right(correct, self.rollouts, self.rollouts, self.threshold)


def locate(search: Search, first_wrong: int, noise: Noise, dice: random.Random) -> tuple[int | None, int]:
    """The step that a search finds where `first_wrong` is the truth, and how many prefixes it probed."""
    probes = 0
    while (prefix := search.probe()) is not None:
        probes += 1
        search.tell(noise.says_right(prefix < first_wrong, dice))
    return search.first_wrong, probes


def measure(kind: str, num_steps: int, noise: Noise, chains: int, seed: int) -> dict[str, float]:
    """Accuracy, with its standard error, and mean rollouts a chain, over chains whose first error is anywhere."""
    dice, hits, probes = random.Random(seed), 0, 0
    for _ in range(chains):
        truth = dice.randint(1, num_steps)
        found, probed = locate(SEARCHES[kind](num_steps), truth, noise, dice)
        hits += found == truth
        probes += probed
    accuracy = hits / chains
    error = math.sqrt(accuracy * (1 - accuracy) / chains)
    return {"accuracy": accuracy, "standard_error": error, "rollouts": noise.rollouts * probes / chains}


def label(row: Mapping[str, Any]) -> str:
    """A row of the table by what it is of: "binary, 8 steps, solves 0.9, recovers 0.02"."""
    return f"{row['search']}, {row['steps']} steps, solves {row['solves']}, recovers {row['recovers']}"


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What was measured of a row."""
    return {name: row[name] for name in ("accuracy", "standard_error", "rollouts")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=4000)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    began = cpu_seconds()
    rows = [
        {"steps": steps, "solves": solves, "recovers": recovers, "search": kind}
        | measure(
            kind,
            steps,
            Noise(solves, recovers, arguments.rollouts, arguments.threshold),
            arguments.chains,
            arguments.seed,
        )
        for solves, recovers in ((1.0, 0.0), (0.9, 0.02), (0.7, 0.05), (0.5, 0.1))
        for steps in (2, 4, 8, 16, 32)
        for kind in SEARCHES
    ]
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        figures = {"cpu_seconds": cpu_seconds() - began, **{label(row): figures_of(row) for row in rows}}
        print(json.dumps(report("localisation", settings, figures)))
        return
    print("steps  solves  recovers  search  first error found  rollouts a chain")
    for row in rows:
        accuracy = f"{100 * row['accuracy']:.1f} ± {100 * row['standard_error']:.1f} %"
        print(
            f"{row['steps']:>5}  {row['solves']:>6.2f}  {row['recovers']:>8.2f}  {row['search']:<6}  {accuracy:>17}  "
            f"{row['rollouts']:>16.1f}"
        )


if __name__ == "__main__":
    main()
