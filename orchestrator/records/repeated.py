"""What several answers to each problem say of a model: pass@k, the majority's vote, and how sure that is. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
"""Of the problems, for an interval."""


def pass_at(k: int, num_samples: int, num_correct: int) -> float:
    """The chance that at least one of k samples is correct, estimated without bias from `num_samples` of which
    `num_correct` are (Chen et al. 2021, arXiv 2107.03374, equation 1): 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: there are fewer samples than k, or than correct ones.
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_correct} correct samples among {num_samples} cannot be")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def ks(num_samples: int) -> list[int]:
    """Those of which pass@k is told: powers of two, and all samples."""
    return [*(2**i for i in range(num_samples.bit_length()) if 2**i < num_samples), num_samples]


RIGHT = 0
"""The number of the answer that the gold answer is equal to."""


def majority(votes: Sequence[int | None]) -> float:
    """Whether the answer that most samples give is right (self-consistency, Wang et al. 2022, arXiv 2203.11171), 1 or
    0; of answers that as many give the chance that one of them, drawn at random, is. `votes` has for each sample the
    number of its answer, `RIGHT` for the right one; a sample without an answer (None) has no vote."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    leading = [answer for answer, count in counts.items() if count == most]
    return 1 / len(leading) if RIGHT in leading else 0.0


def bootstrap(figures: Sequence[Sequence[float]], seed: int, confidence: float = 0.95) -> list[tuple[float, float]]:
    """Intervals of the means of some figures, each of them by problem [figures, problems]: the percentiles of the means
    over `RESAMPLES` draws of as many problems, with replacement (Efron 1979). The same draws serve all figures.

    Without any problems nothing is known: (0, 1). The generator is NumPy's old one, since its numbers never change:
    whoever computes it again finds the same.
    """
    values = np.array(figures, dtype=float)
    if not values.size:
        return [(0.0, 1.0)] * len(figures)
    draws, num_problems = np.random.RandomState(seed), values.shape[1]
    means = np.stack([values[:, draws.randint(0, num_problems, num_problems)].mean(axis=1) for _ in range(RESAMPLES)])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return list(zip(map(float, low), map(float, high), strict=True))
