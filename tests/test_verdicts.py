"""The procedure of verdicts on simulated noise, with heavy tails."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import _verdicts

LIMIT, BENCHMARKS, RUNS = 1.05, 20, 20


def run(rng, spread, slowed=0):
    """Verdicts of one run in which the first `slowed` benchmarks take 1.1 times as long."""
    ratios = [np.empty(0)] * BENCHMARKS
    evidence = [_verdicts.Evidence() for _ in ratios]
    verdicts = [_verdicts.OPEN] * BENCHMARKS
    for rounds in _verdicts.looks(320):
        for i, verdict in enumerate(verdicts):
            if verdict == _verdicts.OPEN:
                new = spread * rng.standard_t(3, rounds - len(ratios[i])) + np.log(1.1) * (i < slowed)
                ratios[i] = np.append(ratios[i], new)
                evidence[i].look(ratios[i], LIMIT)
        judged = _verdicts.judge(evidence)
        verdicts = [new if old == _verdicts.OPEN else old for old, new in zip(verdicts, judged, strict=True)]
        if _verdicts.OPEN not in verdicts:
            break
    return verdicts


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.015])
def test_verdicts__are_right_19_times_of_20(spread):
    rng = np.random.default_rng(0)
    silent = found = quiet_beside = 0
    for _ in range(RUNS):
        verdicts = run(rng, spread)
        silent += _verdicts.SLOWER not in verdicts
        assert verdicts.count(_verdicts.OPEN) <= 0.05 * BENCHMARKS
        verdicts = run(rng, spread, slowed=1)
        found += verdicts[0] == _verdicts.SLOWER
        quiet_beside += _verdicts.SLOWER not in verdicts[1:]
    assert min(silent, found, quiet_beside) >= 19 / 20 * RUNS


def common_evidence(rng, ratio, biases, benchmarks=BENCHMARKS):
    """Of benchmarks of a kind with six rounds at each look, in which processes are slower by a bias."""
    evidence = _verdicts.CommonEvidence()
    for bias in biases:
        noise = 0.05 * rng.standard_t(3, (benchmarks, 6))
        evidence.look_at_all(list(noise + np.log(ratio) + bias), LIMIT)
    return evidence


def test_kind__is_slower_where_no_benchmark_tells():
    rng = np.random.default_rng(0)
    silent = found = biased = alone = 0
    for _ in range(RUNS):
        slower = common_evidence(rng, 1.07, [0.0, 0.0, 0.0])
        found += _verdicts.judge([slower]) == [_verdicts.SLOWER]
        same, one_process = common_evidence(rng, 1.0, [0.0, 0.0, 0.0]), common_evidence(rng, 1.0, [0.0, 0.1, 0.0])
        silent += _verdicts.judge([same]) != [_verdicts.SLOWER]
        biased += _verdicts.judge([one_process]) != [_verdicts.SLOWER]
        single = _verdicts.Evidence()
        single.look(0.05 * rng.standard_t(3, 18) + np.log(1.07), LIMIT)
        alone += _verdicts.judge([single]) == [_verdicts.SLOWER]
    assert min(silent, found, biased) >= 19 / 20 * RUNS
    assert alone < RUNS / 4


def test_kind__of_few_benchmarks_or_rounds_is_not_asked():
    rng = np.random.default_rng(0)
    few = common_evidence(rng, 2.0, [0.0] * 3, benchmarks=_verdicts.LEAST_OF_A_KIND - 1)
    assert (few.looks, few.at_most_limit) == (0, 1.0)
    few.look_at_all([np.ones(_verdicts.LEAST_ROUNDS - 1)] * BENCHMARKS, LIMIT)
    assert few.looks == 0


def test_verdicts__can_be_wrong_on_purpose():
    """A procedure that took the estimate for the truth would not pass the test above."""
    rng = np.random.default_rng(0)
    alarms = sum(np.median(0.1 * rng.standard_t(3, 6)) > np.log(LIMIT) for _ in range(BENCHMARKS * RUNS))
    assert alarms > RUNS


def test_looks__end_with_the_most_rounds():
    assert _verdicts.looks(20) == [6, 9, 14, 20]
    assert _verdicts.looks(4) == [4]


def test_interval__is_unbounded_with_too_few_rounds():
    low, ratio, high = _verdicts.interval(np.zeros(3))
    assert (low, ratio, high) == (0.0, 1.0, float("inf"))
