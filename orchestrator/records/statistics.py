"""The few statistics that a verdict on accuracy needs. Pure, exact where that is cheap.

The tests hold them against scipy, which is not used here: importing it costs a command two seconds.
"""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(num_correct: int, num_problems: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, as fractions in [0, 1] (Wilson 1927, the score interval).

    Unlike the textbook interval it stays inside [0, 1] and has a width at 0 % and 100 %. Without any
    problems nothing is known: (0, 1).
    """
    if num_problems == 0:
        return 0.0, 1.0
    if not 0 <= num_correct <= num_problems:
        raise ValueError(f"{num_correct} of {num_problems} cannot be correct")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_correct / num_problems
    shrink = 1 + z * z / num_problems
    centre = (share + z * z / (2 * num_problems)) / shrink
    spread = share * (1 - share) / num_problems + z * z / (4 * num_problems**2)
    half = z * math.sqrt(spread) / shrink
    # At 0 and n the bounds are 0 and 1 in exact arithmetic; rounding must not leave 1e-17 there.
    low = 0.0 if num_correct == 0 else max(0.0, centre - half)
    high = 1.0 if num_correct == num_problems else min(1.0, centre + half)
    return low, high


def paired_interval(num_won: int, num_lost: int, num_problems: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the difference of two accuracies on the same problems, as fractions in [-1, 1]: of those
    that only the one model solves (`num_won`), less those that only the other one solves, by all of them.

    The adjusted Wald interval of Bonett and Price (2012, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data"): one problem is added to each kind, so that it has a width where the
    models differ in none. Without any problems nothing is known: (-1, 1).
    """
    if min(num_won, num_lost) < 0 or num_won + num_lost > num_problems:
        raise ValueError(f"{num_won} won and {num_lost} lost cannot be of {num_problems} problems")
    if num_problems == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    won, lost = ((number + 1) / (num_problems + 2) for number in (num_won, num_lost))
    half = z * math.sqrt((won + lost - (won - lost) ** 2) / (num_problems + 2))
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def mcnemar_p_value(num_for: int, num_against: int) -> float:
    """One-sided exact McNemar test (McNemar 1947; exact form: the sign test on discordant pairs).

    Of the problems that exactly one of two models solves, `num_for` speak for the claim "this model is
    better" and `num_against` against it. Returns P(X >= num_for) for X ~ Binomial(num_for + num_against,
    1/2): how often chance alone would speak for the claim at least so clearly. 1.0 without any such
    problem. Integers throughout, so that thousands of discordant problems cost no precision.
    """
    if num_for < 0 or num_against < 0:
        raise ValueError("counts cannot be negative")
    total = num_for + num_against
    # Sum the shorter tail: P(X >= k) = 1 - P(X <= k - 1), and by symmetry P(X >= k) = P(X <= n - k).
    if num_for > num_against:
        return _lower_tail(total, num_against) / (1 << total)
    return ((1 << total) - _lower_tail(total, num_for - 1)) / (1 << total)


def _lower_tail(total: int, last: int) -> int:
    """Sum of the binomial coefficients C(total, 0) ... C(total, last); 0 for a negative `last`."""
    coefficient, tail = 1, 0
    for i in range(last + 1):
        tail += coefficient
        coefficient = coefficient * (total - i) // (i + 1)
    return tail


def smallest_detectable_drop(num_problems: int, alpha: float) -> float | None:
    """The least drop in accuracy, as a fraction, that `mcnemar_p_value` could call significant at all.

    Assumed: the kindest case for the test, in which the worse model solves nothing that the better one
    does not, so that every discordant problem is a loss. Then p = 2**-lost, and the least significant
    loss is ceil(log2(1 / alpha)) problems whatever their number: 5 at alpha 0.05. Where some problems
    are won too, the drop must be larger to be seen. None when even losing every problem would not do.
    """
    for lost in range(1, num_problems + 1):
        if mcnemar_p_value(lost, 0) <= alpha:
            return lost / num_problems
    return None
