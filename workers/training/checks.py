"""Is the policy at a round's first update the reference that it starts from? Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

MAX_MEAN_DIFFERENCE = 0.02
"""Largest mean |policy - reference| of a token's log-probability, in nats."""
MAX_STANDARD_ERRORS = 3.0
NEGLIGIBLE_BIAS = 0.005
"""A bias below this many nats a token is harmless even where it is significant, as rounding can be."""


class ReferenceMismatch(ValueError):
    """The policy's log-probabilities are not those of the reference it starts from."""


@dataclass(frozen=True, slots=True)
class ReferenceCheck:
    """Differences policy - reference of the batch's distinct completions, each divided by its length.

    Rounding moves single completions by up to 1.5 nats in bfloat16 and is as often up as down; a wrong
    reference shows as a large difference or as a bias.
    """

    mean_difference: float
    """Mean of the absolute differences, in nats a token."""
    bias: float
    """Mean of the signed differences."""
    standard_error: float
    """Standard error of the bias."""
    completions: int

    @classmethod
    def from_sums(cls, sums: Mapping[str, float]) -> ReferenceCheck:
        """From the sums named by workers.numerics.step.DIFFERENCES."""
        count = sums["completions"]
        bias = sums["signed"] / count
        variance = max(0.0, sums["squared"] / count - bias**2) * count / max(count - 1, 1)
        return cls(sums["absolute"] / count, bias, math.sqrt(variance / count), int(count))

    def require_agreement(self) -> None:
        """Raise ReferenceMismatch for a large mean difference, or a significant and relevant bias."""
        significant = abs(self.bias) > MAX_STANDARD_ERRORS * self.standard_error
        if self.mean_difference < MAX_MEAN_DIFFERENCE and not (significant and abs(self.bias) > NEGLIGIBLE_BIAS):
            return
        raise ReferenceMismatch(
            "step 1: the policy starts from the reference, but its log-probabilities differ from the cached ones "
            f"by {self.mean_difference:.4f} nats a token on average (limit {MAX_MEAN_DIFFERENCE}), with a bias of "
            f"{self.bias:+.4f} ± {self.standard_error:.4f} over {self.completions} completions. The reference file "
            "belongs to another checkpoint or precision: run the reference pass again"
        )

    def facts(self) -> dict[str, float]:
        return asdict(self)
