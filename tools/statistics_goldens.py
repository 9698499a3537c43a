#!/usr/bin/env python3
"""Writes testdata/statistics/golden.json: known answers for src/bench/statistics_test.cpp, computed by SciPy and NumPy.

Needs scipy and numpy (the versions used stand in the file). Run from the root of the tree:
    python3 tools/statistics_goldens.py
"""
import json

import numpy
import scipy
from scipy import stats


def interval_of_median(x, confidence=0.95):
    """The order-statistic interval by its definition: binomial probabilities from SciPy."""
    n = len(x)
    best = None
    for k in range(1, n // 2 + 1):
        coverage = 1 - 2 * stats.binom.cdf(k - 1, n, 0.5)
        if coverage >= confidence:
            best = (k, coverage)
    if best is None:
        return None
    k, coverage = best
    ordered = sorted(x)
    return {"low": ordered[k - 1], "high": ordered[n - k], "low_rank": k, "high_rank": n + 1 - k, "coverage": coverage}


def case(name, x):
    return {
        "name": name,
        "samples": x,
        "median": float(numpy.median(x)),
        "mad": float(stats.median_abs_deviation(x)),
        "quantiles": {str(q): float(numpy.quantile(x, q)) for q in (0, 0.05, 0.25, 0.5, 0.9, 0.95, 0.99, 1)},
        "interval": interval_of_median(x),
    }


class SplitMix64:
    """The generator of src/bench/statistics.cpp, so that both sides have the same resamples."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def below(self, bound):
        unfair = (1 << 64) % bound
        while True:
            value = self.next()
            if value >= unfair:
                return value % bound


def mean_case(name, x, resamples=2000, seed=5):
    """SciPy's percentile and BCa intervals of a mean, from our resamples instead of its own."""
    numbers, n = SplitMix64(seed), len(x)
    means = numpy.array([sum(x[numbers.below(n)] for _ in range(n)) / n for _ in range(resamples)])
    result = {"name": name, "samples": x, "seed": seed, "resamples": resamples}
    for method in ("percentile", "BCa"):
        ours = stats._resampling.BootstrapResult(confidence_interval=None, bootstrap_distribution=means, standard_error=None)
        interval = stats.bootstrap((x,), numpy.mean, n_resamples=0, method=method, confidence_level=0.95,
                                   bootstrap_result=ours).confidence_interval
        result[method] = [float(interval.low), float(interval.high)]
    return result


def ratio_p_value(a, b, draws=200000):
    """Two-sided, of the ratio of medians being 1: twice the smaller share of bootstrap ratios on one side of 1."""
    rng = numpy.random.default_rng(2)
    medians = [numpy.median(rng.choice(x, (draws, len(x))), axis=1) for x in (a, b)]
    ratio = medians[0] / medians[1]
    return float(min(1.0, 2 * min((ratio <= 1).mean(), (ratio >= 1).mean())))


def fences(x):
    """Tukey's classes by their definition: 0 none, 1 mild, 2 severe."""
    low, high = numpy.quantile(x, (0.25, 0.75))
    return [int(v < low - 1.5 * (high - low) or v > high + 1.5 * (high - low))
            + int(v < low - 3 * (high - low) or v > high + 3 * (high - low)) for v in x]


def holm(p):
    """By its definition: the i-th smallest of m times m − i, never below one before it, at most 1."""
    order, adjusted = numpy.argsort(p, kind="stable"), [0.0] * len(p)
    for i, at in enumerate(order):
        before = adjusted[order[i - 1]] if i else 0.0
        adjusted[at] = float(max(before, min(1.0, (len(p) - i) * p[at])))
    return adjusted


def main():
    rng = numpy.random.default_rng(20260131)
    cases = [case("one", [3.5]), case("two", [1.0, 2.0]), case("five", [5.0, 1.0, 4.0, 2.0, 3.0])]
    for n in (6, 9, 10, 11, 15, 20, 29, 30, 59, 100, 299, 1000):
        cases.append(case(f"lognormal {n}", [round(float(v), 6) for v in rng.lognormal(3.0, 0.2, n)]))
    cases.append(case("ties", [2.0] * 7 + [3.0] * 5))

    ratios = []
    for n, m, scale in ((10, 10, 1.5), (30, 10, 1.02), (15, 30, 0.6)):
        a = [round(float(v), 6) for v in rng.normal(100 * scale, 3, n)]
        b = [round(float(v), 6) for v in rng.normal(100, 3, m)]
        result = stats.bootstrap((a, b), lambda p, q, axis=-1: numpy.median(p, axis=axis) / numpy.median(q, axis=axis),
                                 n_resamples=200000, batch=5000, method="percentile", confidence_level=0.95, random_state=1)
        ratios.append({"numerator": a, "denominator": b, "value": float(numpy.median(a) / numpy.median(b)),
                       "low": float(result.confidence_interval.low), "high": float(result.confidence_interval.high),
                       "p": ratio_p_value(a, b)})
    close = [[round(float(v), 6) for v in rng.normal(100 * scale, 3, 12)] for scale in (1.015, 1.0)]
    p_values = [{"numerator": close[0], "denominator": close[1], "p": ratio_p_value(*close)}]

    means = [mean_case(f"lognormal {n}", [round(float(v), 6) for v in rng.lognormal(0.0, 0.8, n)]) for n in (8, 25)]
    means.append(mean_case("ties", [1.0, 1.0, 1.0, 2.0, 2.0, 9.0]))
    heavy = [round(float(v), 6) for v in rng.standard_t(1.5, 24)]
    tukey = {"samples": heavy, "classes": fences(heavy)}
    p = [round(float(v), 6) for v in rng.beta(0.3, 3.0, 9)]

    golden = {"made_by": "tools/statistics_goldens.py", "numpy": numpy.__version__, "scipy": scipy.__version__,
              "cases": cases, "ratios": ratios, "p_values": p_values, "means": means, "tukey": tukey,
              "holm": {"p": p, "adjusted": holm(p)},
              "normal": [[x, float(stats.norm.cdf(x))] for x in (-6.0, -1.96, 0.0, 0.5, 3.0)]}
    with open("testdata/statistics/golden.json", "w", encoding="utf-8") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
