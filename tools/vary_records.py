#!/usr/bin/env python3
"""Makes many records of a few: the same cells under other names of models and devices and at other depths, with all their
times multiplied by a factor. For seeing how long reports of thousands take; what they say is of no measurement.

    tools/vary_records.py FOLDER_OF_RECORDS COUNT OUT
"""

import json
import os
import random
import sys

MODELS, DEVICES = 40, 6


def scaled(metric, factor):
    for key in ("median", "low", "high", "mad", "min", "max"):
        if metric.get(key) is not None:
            metric[key] *= factor
    if "samples" in metric:
        metric["samples"] = [x * factor for x in metric["samples"]]


def varied(record, number, kinds, factor):
    record.pop("content_sha256", None)
    cell, device = record["cell"], number // kinds // MODELS % DEVICES
    cell["model"]["name"] = f"org/model-{number // kinds % MODELS}"
    record["devices"][0]["name"] = record["environment"]["cpu"] = f"device {device}"
    cell["depth"] = number // kinds // MODELS // DEVICES * 64
    cell["test"] += f" @ d{cell['depth']}"
    for metric in record["metrics"].values():
        if metric and metric["unit"] in ("ns", "1/s"):
            scaled(metric, factor if metric["unit"] == "ns" else 1 / factor)
    for kind in ("warmup", "runs", "repeated_runs"):
        for run in record.get(kind) or []:
            run["total_ns"] = int(run["total_ns"] * factor)
            run["spans"] = [[phase, clock, int(a * factor), int(b * factor)] for phase, clock, a, b in run["spans"]]
    return record


def main():
    folder, count, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    texts = [open(os.path.join(folder, name)).read() for name in sorted(os.listdir(folder)) if name.endswith(".json")]
    os.makedirs(out, exist_ok=True)
    numbers = random.Random(1)
    for i in range(count):
        record = varied(json.loads(texts[i % len(texts)]), i, len(texts), numbers.uniform(0.5, 2))
        with open(os.path.join(out, f"{i:05}.json"), "w") as file:
            json.dump(record, file, separators=(",", ":"))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main()
