"""When a verdict on a benchmark falls: tests on the rounds so far, for many benchmarks and repeated looks at them.

A *round* gives one ratio of times, HEAD over BASE, of calls that were timed in turn. Whatever slows the machine down
for longer than a round slows down both, and what is left is as likely to hit the one as the other; so the logarithms of
the ratios lie symmetrically about that of the true ratio, and Wilcoxon's signed ranks tell how improbable they are if
the true ratio is such and such. No outlier moves a rank far.

The *limit* is 1 + minimum effect. Two questions are asked at each look:

is it slower?       That the ratio is at most the limit must be improbable. With as many such questions as there are
                    benchmarks, some improbable thing happens in any run; so the share of false alarms among all alarms
                    is controlled (Benjamini and Hochberg 1995): FALSE_ALARMS of them are expected to be false at most.
is it not slower?   That the ratio is at least the limit must have a probability of at most MISSES.

Benchmarks of a kind, which time the same calls at several sizes and differ in the same kernels, are asked together,
too:

are they slower?    That all ratios are at most half of the limit, 1 + minimum effect / 2, must be improbable (Fisher's
                    combination of the tests); in the rounds of two looks, each by itself, since a process that the
                    system or the allocator treats worse than the other one is slower in all that it does, and each look
                    has new processes. This is one more question among those of the single benchmarks. It finds a kernel
                    that is slower by little where no single benchmark tells.

Looking at the rounds again and again gives chance more than one occasion. The first look has half of the probability
to spend, look k the share 1 / (k (k + 1)); all of these together are 1, however many looks there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

FALSE_ALARMS = 0.02
MISSES = 0.05
INTERVAL = 0.95
"""Confidence of an interval, taken by itself. It is for the eye; verdicts come from the tests."""

FIRST_LOOK = 6
"""Rounds before the first look: with fewer, no ratios are so improbable that they could tell anything."""

LOOK_GROWTH = 1.5
"""Rounds at a look as a multiple of those at the look before."""

LEAST_OF_A_KIND, LEAST_ROUNDS = 4, 3
"""Benchmarks of a kind from which on they are asked together, and rounds of each."""

SLOWER, OPEN, FASTER, EVEN = "slower", "open", "faster", "not slower"


def looks(rounds: int) -> list[int]:
    """Numbers of rounds after which to look, up to the most rounds."""
    numbers = [min(FIRST_LOOK, rounds)]
    while numbers[-1] < rounds:
        numbers.append(min(math.ceil(LOOK_GROWTH * numbers[-1]), rounds))
    return numbers


@dataclass
class Evidence:
    """How improbable the rounds of a benchmark would be; the least of all looks, each multiplied by its price."""

    at_most_limit: float = 1.0
    """If the ratio were the limit or less."""
    at_least_limit: float = 1.0
    """If it were the limit or more."""
    at_least_inverse: float = 1.0
    """If it were 1 / limit or more."""
    looks: int = 0

    def look(self, log_ratios: np.ndarray, limit: float) -> None:
        """Take all rounds so far into account."""
        self.looks += 1
        price = self.looks * (self.looks + 1)
        above, below = log_ratios - math.log(limit), log_ratios + math.log(limit)
        self.at_most_limit = min(self.at_most_limit, price * _signed_ranks(above, "greater"))
        self.at_least_limit = min(self.at_least_limit, price * _signed_ranks(above, "less"))
        self.at_least_inverse = min(self.at_least_inverse, price * _signed_ranks(below, "less"))


@dataclass
class CommonEvidence(Evidence):
    """The same for benchmarks of a kind together, of which only the first question is asked."""

    latest: float = 1.0
    """How improbable the rounds of the last look were."""

    def look_at_all(self, log_ratios: Sequence[np.ndarray], limit: float) -> None:
        """Take the rounds since the last look into account, of those benchmarks that had some."""
        from scipy import stats

        improbable = [
            _signed_ranks(ratios - math.log(limit) / 2, "greater")
            for ratios in log_ratios
            if len(ratios) >= LEAST_ROUNDS
        ]
        if len(improbable) < LEAST_OF_A_KIND:
            return
        self.looks += 1
        before, self.latest = self.latest, float(stats.combine_pvalues(improbable, method="fisher").pvalue)
        self.at_most_limit = min(self.at_most_limit, self.looks * (self.looks + 1) * max(before, self.latest))


def _signed_ranks(values: np.ndarray, alternative: str) -> float:
    """Probability of such signed ranks, or more extreme ones, about a centre of zero."""
    from scipy import stats  # not above: processes that only measure do without it, and start sooner

    if not np.any(values):
        return 1.0
    return float(stats.wilcoxon(values, alternative=alternative).pvalue)


def judge(evidence: Sequence[Evidence]) -> list[str]:
    """Verdicts on benchmarks that are tested together."""
    from scipy import stats

    if not evidence:
        return []
    slower, faster = (
        stats.false_discovery_control([min(p, 1.0) for p in improbable]) <= FALSE_ALARMS
        for improbable in ([e.at_most_limit for e in evidence], [e.at_least_inverse for e in evidence])
    )
    not_slower = [e.at_least_limit <= MISSES for e in evidence]
    return [
        SLOWER if is_slower else FASTER if is_faster else EVEN if is_even else OPEN
        for is_slower, is_faster, is_even in zip(slower, faster, not_slower, strict=True)
    ]


def interval(log_ratios: np.ndarray) -> tuple[float, float, float]:
    """Low end, estimate and high end of the true ratio.

    The estimate is that of Hodges and Lehmann, the median of the means of all pairs of rounds. The ends are means of
    pairs too, at the ranks where Wilcoxon's test (in its normal approximation) rejects what lies beyond.
    """
    n = len(log_ratios)
    first, second = np.triu_indices(n)
    means = np.sort((log_ratios[first] + log_ratios[second]) / 2)
    z = NormalDist().inv_cdf((1 + INTERVAL) / 2)
    rank = math.floor(n * (n + 1) / 4 - z * math.sqrt(n * (n + 1) * (2 * n + 1) / 24))
    low, high = (means[rank], means[-1 - rank]) if rank >= 0 else (-math.inf, math.inf)
    return math.exp(low), math.exp(np.median(means)), math.exp(high)


def rounds_to_decide(log_ratios: np.ndarray, limit: float) -> float:
    """About how many rounds it takes in all until the verdict, if the next ones are like those so far."""
    low, high = np.quantile(log_ratios, [0.25, 0.75])
    spread = max((high - low) / 1.35, 1e-4)
    distance = max(abs(float(np.median(log_ratios)) - math.log(limit)), 1e-4)
    return max(FIRST_LOOK, (3 * spread / distance) ** 2)
