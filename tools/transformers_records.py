"""Records (docs/record.schema.json) of what tools/run_transformers.py measured: marked as another program's, as `quantbench
import` marks them. What transformers does not tell is null. Statistics are those of src/bench/statistics.cpp.
"""

import hashlib
import json
import math
import os
import pathlib
import platform
import statistics
import struct

OWN_NAME = {"fp16": "FP16", "bf16": "BF16", "fp32": "FP32", "int8": "LLM.int8 (threshold 6.0)", "4bit": "NF4, double quantisation"}
RATES = {"prefill_tokens_per_second", "decode_tokens_per_second", "tokens_per_second"}
RUN_METRICS = [
    "total_latency", "latency_per_token", "time_to_first_token", "encode_time", "vision_time", "prefill_time", "decode_time",
    "device_time", "host_overhead", "inter_token_median", "inter_token_p95", *sorted(RATES), "bytes_per_token", "read_share",
    "inter_token_host_median", "inter_token_host_p95",
]  # fmt: skip
CELL_METRICS = ["load_time", "weight_bytes", "memory_start", "memory_peak", "memory_end"]
IN_BYTES = {"weight_bytes", "memory_start", "memory_peak", "memory_end"}
ENOUGH_RUNS, LEVEL = 10, 0.95
STEPS_OF_P95 = 59  # before the largest exceeds the 95th percentile with a probability of 95 %


def quantile(values, q):
    """Linear between order statistics (type 7)."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def median_interval(values):
    """The narrowest symmetric interval of order statistics that holds the median at LEVEL; (None, None, 0) of too few."""
    n, best, tail = len(values), None, 0.0
    for rank in range(1, n // 2 + 1):
        tail += math.comb(n, rank - 1) / 2**n
        if 1 - 2 * tail < LEVEL:
            break
        best = rank, 1 - 2 * tail
    if not best:
        return None, None, 0.0
    ordered = sorted(values)
    return ordered[best[0] - 1], ordered[n - best[0]], best[1]


def outliers(values):
    if not values:
        return []
    low, high = quantile(values, 0.25), quantile(values, 0.75)
    beyond = lambda x, fences: x < low - fences * (high - low) or x > high + fences * (high - low)
    return ["severe" if beyond(x, 3) else "mild" if beyond(x, 1.5) else "none" for x in values]


def summary(name, values):
    low, high, coverage = median_interval(values)
    middle = statistics.median(values)
    return {
        "unit": "1/s" if name in RATES else "ns", "better": "higher" if name in RATES else "lower", "runs": len(values),
        "median": middle, "low": low, "high": high, "coverage": coverage,
        "mad": statistics.median(abs(x - middle) for x in values), "min": min(values), "max": max(values),
        "samples": values,
    }  # fmt: skip


def run_metrics(runs, prompt_tokens, causal):
    """By name, a value a run: totals of generations that nobody watched, the rest of those that a streamer watched."""
    found = {name: [] for name in RUN_METRICS}
    for run in runs:
        total, count = run["total_ns"], run["new_tokens"]
        first, *steps = run["token_ns"] or [None]
        values = {"total_latency": total, "latency_per_token": total / count, "tokens_per_second": count * 1e9 / total}
        if first:
            values |= {"time_to_first_token": first, "prefill_tokens_per_second": prompt_tokens * 1e9 / first}
            values |= {"prefill_time": first} if causal else {}
        if steps:
            values |= {"decode_time": sum(steps), "decode_tokens_per_second": len(steps) * 1e9 / sum(steps)}
            values |= {"inter_token_median": statistics.median(steps), "inter_token_host_median": statistics.median(steps)}
            if len(steps) >= STEPS_OF_P95:
                values |= {"inter_token_p95": quantile(steps, 0.95), "inter_token_host_p95": quantile(steps, 0.95)}
        for name, value in values.items():
            found[name].append(float(value))
    return {name: values for name, values in found.items() if values and len(values) == len(runs)}


def hash_of(ids):
    return hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()


def identity(folder, random_weights):
    """-> hash of config.json, the weight files with the hashes of their headers."""
    folder = pathlib.Path(folder)
    config = folder / "config.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else None
    files = []
    for path in [] if random_weights else sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = file.read(struct.unpack("<Q", file.read(8))[0])
        files.append({"name": path.name, "bytes": path.stat().st_size, "header_sha256": hashlib.sha256(header).hexdigest()})
    return digest, files


def first_line(path, key):
    try:
        return next(line.split(":" if ":" in line else "=", 1)[1].strip(' "\n') for line in open(path) if line.startswith(key))
    except (OSError, StopIteration):
        return None


def environment():
    names = ["cpu", "cpu_features", "logical_cpus", "physical_cores", "last_level_cache_bytes", "virtual_machine",
             "memory_bytes", "available_bytes", "kernel", "operating_system", "huge_pages", "governor", "load_average"]  # fmt: skip
    kib = lambda key: int((first_line("/proc/meminfo", key) or "0").split()[0]) * 1024 or None
    return dict.fromkeys(names) | {
        "cpu": first_line("/proc/cpuinfo", "model name"),
        "logical_cpus": os.cpu_count(),
        "memory_bytes": kib("MemTotal"),
        "available_bytes": kib("MemAvailable"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "operating_system": first_line("/etc/os-release", "PRETTY_NAME"),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def run_part(run, outlier):
    names = ["at_ns", "block", "place", "finite", "read_before_bytes_per_second", "read_after_bytes_per_second",
             "other_cpu_share"]  # fmt: skip
    return dict.fromkeys(names) | {
        "at_ns": run["at_ns"], "total_ns": run["total_ns"], "prompt_tokens": run["prompt_tokens"],
        "new_tokens": run["new_tokens"], "output_sha256": hash_of(run["ids"]), "outlier": outlier, "spans": [],
    }  # fmt: skip


def judge(cell, runs, every):
    """-> stamp, reasons, those of them that only flag."""
    flags = [f"measured by {cell['engine']}, not by this program", *cell["notes"]]
    bad = []
    if cell["error"]:
        bad.append(cell["error"])
    if len({hash_of(run["ids"]) for run in every}) > 1:
        bad.append("the same input gave different ids in two runs")
    if any(run["new_tokens"] != cell["new_tokens"] for run in every):
        bad.append("a run had not exactly the tokens asked for")
    if len(runs) < ENOUGH_RUNS:
        flags.append(f"{len(runs)} runs, fewer than {ENOUGH_RUNS}")
    return "INVALID" if bad else "FLAGGED", bad + flags, flags


def record_of(cell, environment_part, started_utc, script):
    """cell: what run_transformers.py knows of a cell, with its warm-up and runs."""
    facts, every = cell["facts"], cell["warmup"] + cell["runs"]
    runs, first = cell["runs"], (cell["runs"] or [None])[0]
    stamp, reasons, flags = judge(cell, runs, every)
    metrics = dict.fromkeys(RUN_METRICS + CELL_METRICS)
    metrics |= {n: summary(n, v) for n, v in run_metrics(runs, facts.get("prompt_tokens"), facts.get("causal")).items()}
    for name in CELL_METRICS:
        if facts.get(name) is not None:
            unit = "bytes" if name in IN_BYTES else "ns"
            metrics[name] = {"unit": unit, "better": "lower", "runs": 0, "median": float(facts[name])}
    digest, files = facts.get("identity", (None, []))
    model = {"name": cell["model"], "commit": facts.get("commit"), "weights": "random" if cell["random"] else "checkpoint",
             "weight_form": None, "config_sha256": digest, "files": files}  # fmt: skip
    model |= {key: facts[key] for key in ("architecture", "parameters", "layers", "vocab") if facts.get(key)}
    device = dict.fromkeys(["index", "id", "backend", "name", "features", "threads", "memory_bytes", "available_bytes", "gpu"])
    prompt_tokens = facts.get("prompt_tokens")
    test = f"{'prompt' if prompt_tokens is None else f'p{prompt_tokens}'}+n{cell['new_tokens']}"
    warmup = [run_part(run, "none") for run in cell["warmup"]]
    return {
        "schema": "quantbench.record",
        "schema_version": 1,
        "started_utc": started_utc,
        "build": dict.fromkeys(["version", "git_commit", "compiler", "build_type", "sanitizers", "optimized"]),
        "environment": environment_part,
        "devices": [device | {"index": 0} | facts["device"]] if "device" in facts else [],
        "cell": {
            "model": model, "precision": cell["precision"], "precision_long": OWN_NAME[cell["precision"]],
            "skipped_modules": facts.get("skipped_modules", []), "test": test, "kind": "generation",
            "prompt_tokens": prompt_tokens, "new_tokens": cell["new_tokens"], "depth": 0, "batch": 1,
            "picture": facts.get("picture"), "stop_at_eos": False, "aa_half": None, "engine": cell["engine"],
            "tuning": facts.get("tuning"), "engine_choice": None, "placement": [],
        },
        "outcome": {
            "status": cell["status"], "stamp": stamp, "reasons": reasons, "flags": flags,
            "stop_reason": f"{len(runs)} runs" + (", as asked" if cell["status"] == "ok" else ""),
            "error": cell["error"], "error_kind": None,
        },
        "protocol": dict.fromkeys(["min_runs", "max_runs", "target_ci", "max_time_s", "warmup_settled"]) | {
            "seed": cell["seed"], "runs": cell["asked_runs"], "interval": "order statistics of the median, at least 95 %",
            "order": "one cell after another", "resident_together": False,
        },
        "prompt": {"text": facts.get("prompt_text"), "ids": facts.get("prompt_ids", []), "context_sha256": None},
        "response": {"text": facts.get("response_text"), "ids": first["ids"] if first else [],
                     "sha256": hash_of(first["ids"]) if first else None},
        "load": None, "memory": [], "cost": None, "energy": None, "quality": None,
        "metrics": metrics,
        "cold": warmup[0] if warmup else None,
        "warmup": warmup[1:],
        "runs": [run_part(run, o) for run, o in zip(runs, outliers([run["total_ns"] for run in runs]))],
        "repeated_runs": [],
        "imported": {
            "tool": "transformers", "format": "run_transformers.py", "from": script.name,
            "file_sha256": hashlib.sha256(script.read_bytes()).hexdigest(), "line": 1, "set": None, "imported_utc": None,
            "renamed": False, "derived": [], "figures": {}, "as_read": facts.get("told", {}),
        },
    }  # fmt: skip


def file_part(name):
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "_" for c in last)[:80].lstrip(".") or "model"


def write(record, folder):
    """One file a record, never in place of another; whole or not at all. -> its path."""
    cell = record["cell"]
    stem = f"{file_part(cell['model']['name'])}_{cell['precision']}_{cell['test']}_{file_part(cell['engine'])}"
    folder.mkdir(parents=True, exist_ok=True)
    path, copy = folder / f"{stem}.json", 1
    while path.exists():
        copy += 1
        path = folder / f"{stem}_{copy}.json"
    scratch = path.with_suffix(".part")
    with scratch.open("w") as file:
        json.dump(record, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    return path
