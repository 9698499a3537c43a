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
                       "low": float(result.confidence_interval.low), "high": float(result.confidence_interval.high)})

    golden = {"made_by": "tools/statistics_goldens.py", "numpy": numpy.__version__, "scipy": scipy.__version__,
              "cases": cases, "ratios": ratios}
    with open("testdata/statistics/golden.json", "w", encoding="utf-8") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
