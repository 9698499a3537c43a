#!/usr/bin/env python3
"""Holds whole models of the published sizes to transformers, and to bitsandbytes' arithmetic, on random weights.

    tools/parity.py --program build/gpu-check-folder/bin/engine_check [--out FOLDER] [--model …] [--precision …]

Both sides make the same weights from a seed (RandomWeights of src/checkpoint, restated below; the table of their sizes
is that of src/engine/engine_check.cpp), with planted outlier channels. The program gives teacher-forced logits by every
engine, one token a step and many in one call, from position 0 and behind a long context. What it is held to:

    reference   transformers in fp32 on the same weights, quantised and dequantised
    theirs      transformers in fp16, its linears replaced by LLM.int8 or NF4 as bitsandbytes computes them on CUDA
                (bitsandbytes_cuda.py, tied to the real one by testdata/bitsandbytes)
    other       the same with a stream in fp32: another right implementation. How far it lies from theirs is what the
                limits can tell apart at all

A step's linears see one row. Its teacher-forced equal is one call with LLM.int8's rule for one row applied to each,
which a few positions that are really stepped are held to.

Limits: quadratic mean and maximum of the error at most twice theirs; mean KL divergence from theirs at most 1e-4
(fp16), 1e-3 (int8, 4bit); the best token the same in 100 % (fp16), 99.5 % of the positions whose gap exceeds the noise,
which a quarter of them must (seen: 74 % and more of 512), or the agreement says nothing.
Where the other right implementation is near that divergence or beyond it, so that the figure cannot tell right from
wrong, 1.25 times the other's counts instead: the case's line says so, and the last line how many they are. Mistakes
that the limits must see are made on purpose, in the middle layer, and in every layer where that is too little to be
seen; one that no limit sees even then is a failure. They are made in a prompt from position 0 on alone: that the limits
would see them behind a long context is not shown. A line a case, and the same as JSON in OUT/parity.jsonl as they
come. Exit status 1 if a limit is broken or a mistake unseen. Needs torch and transformers, no network; one GPU, or a
CPU for small configurations.
"""

import argparse
import contextlib
import gc
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch
import transformers
from torch import nn

import bitsandbytes_cuda as bnb_cuda

SEED, OUTLIERS = 42, 16
LIMITS = {"fp16": (1e-4, 1.0), "int8": (1e-3, 0.995), "4bit": (1e-3, 0.995)}  # KL, same best token
ERROR_RATIO = 2.0
LEAST_CLEAR = 0.25  # of a case's positions
FLOOR_RATIO = 1.25  # of the other's divergence, where that is what a right implementation is held to
CHUNK = 1024  # tokens of a context in one call
STEPPED = 8  # positions that transformers really steps
NOISES = 8.0  # a gap between the two best tokens that is more than so many of their RMS errors is clear
CONTEXTS = {"meta-llama/Llama-3.2-1B": 7000, "microsoft/phi-2": 1536}
TESTDATA = pathlib.Path(__file__).resolve().parent.parent / "testdata"

# --- the weights ---------------------------------------------------------------------------------
M32, M64 = 2**32 - 1, 2**64 - 1
OUTLIER_NORM_WEIGHT = 32.0
RANDOM_SIGMA = torch.tensor(147.80054, dtype=torch.float32).item()


def mix(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & M64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def key_of(seed, name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & M64
    return mix(value ^ mix(seed + 0x9E3779B97F4A7C15 & M64))


def outlier_channels(width):
    channels, draw = set(), 0
    while len(channels) < OUTLIERS:
        channels.add(mix(key_of(SEED, "outlier channels") + draw & M64) % width)
        draw += 1
    return sorted(channels)


def elements(name, count, mean, sigma, device):
    """The first `count` < 2^32 elements of the tensor's stream in fp16."""
    key = mix(key_of(SEED, name))
    before, between = key & M32, key >> 32
    out = torch.empty(count, dtype=torch.float16, device=device)
    scale = torch.tensor(sigma / RANDOM_SIGMA, dtype=torch.float32, device=device)
    at_once = 1 << 25
    for first in range(0, count, at_once):
        x = torch.arange(first, min(first + at_once, count), dtype=torch.int64, device=device) ^ before
        x = (x ^ x >> 16) * 0x7FEB352D + between & M32
        x = (x ^ x >> 15) * 0x846CA68B & M32
        x ^= x >> 16
        total = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)
        out[first : first + at_once] = ((total - 510).float() * scale + mean).half()
    return out


def make_weight(name, shape, config, device):
    """As tensors_of() of engine_check.cpp has it."""
    planted = OUTLIERS * (OUTLIER_NORM_WEIGHT * OUTLIER_NORM_WEIGHT - 1.0)
    stream = 3.0 / math.sqrt(config.hidden_size)
    writes_stream = any(part in name for part in ("o_proj", "dense", "down_proj", "fc2"))
    count = math.prod(shape)
    mean, outliers = 0.0, []
    if name in ("model.norm.weight", "model.final_layernorm.weight"):
        sigma = 1.0
    elif len(shape) == 1 and name.endswith(".bias"):
        sigma = 0.1 * stream if writes_stream else 0.1
    elif len(shape) == 1:
        mean, sigma, outliers = 1.0, 0.3, outlier_channels(shape[0])
    elif "embed" in name or "lm_head" in name:
        sigma = stream
    elif writes_stream:
        sigma = 0.4 * stream / math.sqrt(shape[1]) / math.sqrt(config.num_hidden_layers)
    else:
        gains = {"q_proj": 1.4, "k_proj": 1.4, "v_proj": 2.0, "up_proj": 1.0}
        gain = next((g for part, g in gains.items() if part in name), 1.5)
        sigma = gain / math.sqrt(shape[1] + planted)
    values = elements(name, count, mean, sigma, device)
    if outliers:
        values[outliers] = OUTLIER_NORM_WEIGHT
    return values.view(shape)


# --- their side ----------------------------------------------------------------------------------
class Int8Linear(nn.Module):
    column_rule = True  # of all: an outlier in any row of a call makes its column one
    threshold = bnb_cuda.THRESHOLD

    def __init__(self, weight, bias):
        super().__init__()
        self.cb, self.scb = bnb_cuda.quantize_int8(weight)
        self.bias = bias

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        y = bnb_cuda.int8_linear(rows, self.cb, self.scb, self.bias, Int8Linear.threshold, Int8Linear.column_rule)[0]
        return y.view(*x.shape[:-1], -1)

    def dequantised(self):
        return self.cb.float() * (self.scb[:, None] / 127.0)


class HalfLinear(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)

    def dequantised(self):
        return self.weight.float()


class Nf4Linear(HalfLinear):
    """bitsandbytes' dequantise-then-linear product: its fused one rounds more often, so this is the stricter limit."""

    def __init__(self, weight, bias):
        packed, absmax8, nested_absmax, offset = bnb_cuda.quantize_nf4(weight)
        scales = bnb_cuda.nested_scales(absmax8, bnb_cuda.nested_code().to(weight.device), nested_absmax, offset)
        self.exact = bnb_cuda.dequantize_nf4(packed, scales, bnb_cuda.NF4_CODE.to(weight.device), weight.shape)
        super().__init__(self.exact.half(), bias)

    def __setattr__(self, name, value):
        # `exact` comes before nn.Module is made, and is no parameter.
        object.__setattr__(self, name, value) if name == "exact" else super().__setattr__(name, value)

    def dequantised(self):
        return self.exact


class OtherRounding(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x.half()).float()


LINEARS = {"fp16": HalfLinear, "int8": Int8Linear, "4bit": Nf4Linear}


def build(config, weights, dtype, device, replace):
    """A transformers model of those weights; replace(linear of the model's, its name) -> module or None."""
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False).copy_(weights[name])
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replace(module, name))
    for name, buffer in model.named_buffers():
        assert buffer.dtype == torch.float32, f"{name}: rotary frequencies must not be rounded to {buffer.dtype}"
    return model


def build_all(config, weights, precision, device):
    """-> theirs, other, reference."""
    made = {}

    def theirs(module, name):
        bias = None if module.bias is None else module.bias.data
        made[name] = LINEARS[precision](module.weight.data, bias)
        return made[name]

    def reference(module, name):
        module.weight.data = made[name].dequantised()
        return module

    return (
        build(config, weights, torch.float16, device, theirs),
        build(config, weights, torch.float32, device, lambda module, name: OtherRounding(made[name])),
        build(config, weights, torch.float32, device, reference),
    )


@torch.no_grad()
def logits_of(model, ids, context, count, steps):
    """Of `count` positions behind `context`, [count, vocab]: in one call, or as if each were a step of its own."""
    cache, Int8Linear.column_rule = None, True
    for first in range(0, context, CHUNK):
        part = ids[None, first : min(first + CHUNK, context)]
        cache = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
    Int8Linear.column_rule = not steps
    return model(ids[None, context : context + count], past_key_values=cache, use_cache=True).logits[0]


@torch.no_grad()
def really_stepped(model, ids, count):
    cache, rows = None, []
    for token in ids[:count]:
        result = model(token.view(1, 1), past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        rows.append(result.logits[0, 0])
    return torch.stack(rows)


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    yield
    setattr(owner, name, before)


def mistakes(model, precision):
    """-> (what, layer -> context manager in which that layer makes it): a limit that lets one pass shows nothing."""
    yield "a norm without its weight", lambda layer: replaced(
        layer.input_layernorm.weight, "data", torch.ones_like(layer.input_layernorm.weight.data)
    )
    for name, module in model.model.layers[0].named_modules():
        if not isinstance(module, tuple(LINEARS.values())) or module.bias is None:
            continue
        if precision == "int8" and name.endswith("k_proj"):
            # What a key's bias adds to a query's scores is mostly the same for all positions, and the softmax takes it
            # off again: where codes fall one way or the other it cannot be seen to be missing, but to be wrong by twice.
            yield f"{name} with the opposite of its bias", lambda layer, name=name: replaced(
                layer.get_submodule(name), "bias", -layer.get_submodule(name).bias
            )
            continue
        yield f"{name} without its bias", lambda layer, name=name: replaced(layer.get_submodule(name), "bias", None)
    if precision == "int8":
        yield "no outliers apart", lambda layer: replaced(Int8Linear, "threshold", 0.0)


# --- how near ------------------------------------------------------------------------------------
def compare(ours, theirs, reference):
    """The figures of the limits, of logits [count, vocab]; a few rows at a time, in double."""
    sums = dict.fromkeys(("square", "their_square", "kl", "clear", "same"), 0.0)
    most = their_most = 0.0
    noise = float((theirs.float() - reference).pow(2).mean().sqrt()) * NOISES
    finite = True
    for first in range(0, len(ours), 32):
        a, b, r = (t[first : first + 32].double() for t in (ours, theirs, reference))
        finite = finite and bool(a.isfinite().all())
        sums["square"] += float((a - r).pow(2).sum())
        sums["their_square"] += float((b - r).pow(2).sum())
        most, their_most = max(most, float((a - r).abs().max())), max(their_most, float((b - r).abs().max()))
        log_p, log_q = b.log_softmax(-1), a.log_softmax(-1)
        sums["kl"] += float((log_p.exp() * (log_p - log_q)).sum())
        top = b.topk(2, -1)
        clear = top.values[:, 0] - top.values[:, 1] > noise
        sums["clear"] += int(clear.sum())
        sums["same"] += int(((a.argmax(-1) == top.indices[:, 0]) & clear).sum())
    count = len(ours)
    return {
        "max": most / their_most,
        "rms": math.sqrt(sums["square"] / sums["their_square"]),
        "their_rms": math.sqrt(sums["their_square"] / theirs.numel()),
        "kl": sums["kl"] / count if finite else math.nan,
        "clear": int(sums["clear"]),
        "same": int(sums["same"]),
        "positions": count,
    }


def most_kl(precision, floor):
    return max(LIMITS[precision][0], FLOOR_RATIO * floor)


def broken(figures, precision, floor=0.0):
    """The limits that the figures break; NaN breaks."""
    agreement = LIMITS[precision][1]
    out = [key for key in ("max", "rms") if not figures[key] <= ERROR_RATIO]
    if not figures["kl"] <= most_kl(precision, floor):
        out.append("kl")
    if figures["same"] < agreement * figures["clear"]:
        out.append("best token")
    if figures["clear"] < LEAST_CLEAR * figures["positions"]:
        out.append("clear")
    return out


def show(f):
    return (
        f"error max {f['max']:.2f}x rms {f['rms']:.2f}x of theirs ({f['their_rms']:.1e}), kl {f['kl']:.1e}, "
        f"best token {f['same']}/{f['clear']} of {f['positions']}"
    )


# --- our side ------------------------------------------------------------------------------------
class Program:
    def __init__(self, path, model, device, scratch, log):
        self.base = [str(path), "--model", model, "--device", device, "--outlier-channels", str(OUTLIERS), "--seed", str(SEED)]
        self.scratch, self.log = scratch, log

    def run(self, *arguments):
        command = self.base + [str(a) for a in arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
        self.log.write(f"$ {' '.join(command)}\n{result.stdout}")
        self.log.flush()
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {result.returncode}: {result.stdout.strip()[-600:]}")

    def check_weight(self, name, weight):
        path = self.scratch / "weight"
        self.run("weights", "--tensor", name, "--out", path)
        theirs = torch.from_file(str(path), size=weight.numel(), dtype=torch.float16)
        if not torch.equal(theirs.view(torch.int16), weight.cpu().view(-1).view(torch.int16)):
            raise RuntimeError(f"{name}: the generator of this script is not the program's")

    def logits(self, precision, engine, ids, cases):
        """Yields (case, logits on the host) one after the other."""
        (self.scratch / "ids").write_bytes(bytes(ids.int().cpu().contiguous().view(torch.uint8).tolist()))
        names = {f"{'steps' if steps else 'prompt'}:{context}:{count}": (context, count, steps) for context, count, steps in cases}
        self.run("--precision", precision, "--engine", engine, "logits", "--ids", self.scratch / "ids", "--chunk", CHUNK,
                 "--out", self.scratch, "--case", ",".join(names))  # fmt: skip
        for name, case in names.items():
            path = self.scratch / f"{name.replace(':', '_')}.f32"
            flat = torch.from_file(str(path), size=path.stat().st_size // 4, dtype=torch.float32)
            yield case, flat.view(case[1], -1)
            path.unlink()


def config_of(program_path, model, scratch):
    if pathlib.Path(model).exists():
        text = pathlib.Path(model).read_text()
    else:
        text = subprocess.run([program_path, "config", "--model", model], capture_output=True, text=True, check=True).stdout
    (scratch / "config.json").write_text(text)
    return transformers.AutoConfig.from_pretrained(scratch)


class Parity:
    def __init__(self, options):
        self.options = options
        self.failures, self.judged, self.by_floor, self.start = 0, 0, 0, time.time()
        options.out.mkdir(parents=True, exist_ok=True)
        self.lines = (options.out / "parity.jsonl").open("w")
        self.log = (options.out / "parity_program.txt").open("w")

    def say(self, text):
        print(f"[{time.time() - self.start:5.0f} s] {text}", flush=True)

    def record(self, **fields):
        self.lines.write(json.dumps(fields) + "\n")
        self.lines.flush()

    def judge(self, what, figures, precision, floor=0.0, **fields):
        limits = broken(figures, precision, floor)
        self.failures += bool(limits)
        verdict = f"FAILED: {', '.join(limits)}" if limits else "passed"
        table, most = LIMITS[precision][0], most_kl(precision, floor)
        self.judged += 1
        if most > table:
            self.by_floor += 1
            verdict += f" (kl at most {most:.1e}: the table's {table:.0e} cannot tell where another right one is at {floor:.1e})"
        self.say(f"{what}: {show(figures)}: {verdict}")
        self.record(what=what, precision=precision, floor_kl=floor, most_kl=most, broken=limits, **figures, **fields)

    def see_mistakes(self, name, precision, theirs, ids, count, hf, exact, floor):
        """Failures are those that no limit sees."""
        layers = theirs.model.layers
        middle = [layers[len(layers) // 2]]
        for what, mistake in mistakes(theirs, precision):
            limits, where, figures = [], "", {}
            for chosen, where in ((middle, "in the middle layer"), (layers, "in every layer")):
                with contextlib.ExitStack() as made:
                    for layer in chosen:
                        made.enter_context(mistake(layer))
                    figures = compare(logits_of(theirs, ids, 0, count, False), hf, exact)
                # Which positions are clear does not depend on the mistake.
                limits = [limit for limit in broken(figures, precision, floor) if limit != "clear"]
                if limits:
                    break
            self.failures += not limits
            seen = f"seen by {', '.join(limits)}" if limits else "FAILED: seen by NOTHING"
            self.say(f"{name} {precision}, {what} {where}: {show(figures)}: {seen}")
            self.record(what=f"{name} {precision} mistake: {what} {where}", broken=limits, **figures)

    def model(self, name, scratch):
        o = self.options
        program = Program(o.program, name, o.device, scratch, self.log)
        config = config_of(o.program, name, scratch)
        with torch.device("meta"):
            shapes = {n: p.shape for n, p in transformers.AutoModelForCausalLM.from_config(config).named_parameters()}
        weights = {n: make_weight(n, tuple(s), config, o.torch_device) for n, s in shapes.items()}
        self.say(f"{name}: {sum(w.numel() for w in weights.values()):,} weights made")
        # One of each kind.
        kinds = {("".join(c for c in n if not c.isdigit())): n for n in weights if weights[n].numel() < 1 << 26}
        for tensor in kinds.values():
            program.check_weight(tensor, weights[tensor])
        context = CONTEXTS.get(name, o.context)
        g = torch.Generator().manual_seed(7)
        ids = torch.randint(0, config.vocab_size, (max(o.positions, context + o.behind),), generator=g).to(o.torch_device)
        all_places = {"short": (0, o.positions), "long": (context, o.behind)}
        places = [all_places[place] for place in o.place]
        for precision in o.precision:
            try:
                self.precision(name, precision, program, config, weights, ids, places)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                self.failures += 1
                self.say(f"{name} {precision}: FAILED: {error}")
                self.record(what=f"{name} {precision}", error=str(error))
            gc.collect()
            if o.torch_device == "cuda":
                torch.cuda.empty_cache()

    def precision(self, name, precision, program, config, weights, ids, places):
        theirs, other, reference = build_all(config, weights, precision, self.options.torch_device)
        expected, floors, few_floor = {}, {}, 0.0
        for context, count in places:
            exact = logits_of(reference, ids, context, count, False)
            for steps in (True, False):
                case = (context, count, steps)
                hf = logits_of(theirs, ids, context, count, steps)
                another = logits_of(other, ids, context, count, steps)
                figures = compare(another, hf, exact)
                floors[case] = figures["kl"]
                if steps and context == 0:  # a few positions' mean may lie above that of all
                    few_floor = max(figures["kl"], compare(another[:STEPPED], hf[:STEPPED], exact[:STEPPED])["kl"])
                del another
                # Kept on the host: the GPU is the program's, too.
                expected[case] = hf.cpu(), exact.cpu()
                kind = "steps" if steps else "prompt"
                self.say(f"{name} {precision} {kind} {context}+{count}, another right one: {show(figures)}")
                self.record(what=f"{name} {precision} {kind} {context}+{count} other", **figures)
        for context, count in places:
            if context > 0:
                continue
            hf, exact = (t.to(ids.device) for t in expected[(0, count, False)])
            self.see_mistakes(name, precision, theirs, ids, count, hf, exact, floors[(0, count, False)])
            few = min(STEPPED, count)
            hf, exact = (t[:few].to(ids.device) for t in expected[(0, count, True)])
            self.judge(f"{name} {precision} transformers, really stepped", compare(really_stepped(theirs, ids, few), hf, exact),
                       precision, few_floor)  # fmt: skip
        del theirs, other, reference
        gc.collect()
        if ids.is_cuda:
            torch.cuda.empty_cache()
        for engine in self.options.engine:
            # A prompt is the same in every engine.
            cases = [c for c in expected if c[2] or engine == self.options.engine[-1]]
            for case, ours in program.logits(precision, engine, ids, cases):
                context, count, steps = case
                hf, exact = (t.to(ids.device) for t in expected[case])
                self.judge(f"{name} {precision} {engine} {'steps' if steps else 'prompt'} {context}+{count}",
                           compare(ours.to(ids.device), hf, exact), precision, floors[case], engine=engine)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True, help="engine_check of a build")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("parity"), help="folder for the results")
    parser.add_argument("--model", nargs="+", default=list(CONTEXTS), help="built-in configurations, or files config.json")
    parser.add_argument("--precision", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--engine", nargs="+", default=["persistent", "graph"])
    parser.add_argument("--device", default="cuda", help="of the program")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--positions", type=int, default=512, help="judged from position 0 on")
    parser.add_argument("--behind", type=int, default=512, help="judged behind a long context")
    parser.add_argument("--place", nargs="+", default=["short", "long"], choices=["short", "long"], help="which of those two")
    parser.add_argument("--context", type=int, default=100, help="that context, of a model that is not built in")
    parser.add_argument("--scratch", type=pathlib.Path, help="a folder for some 700 MB of logits at a time")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    parity = Parity(options)
    for path in sorted((TESTDATA / "bitsandbytes").glob("*.safetensors")):
        parity.say(f"{path.name}: {bnb_cuda.check_against_cuda(path)}")
    shm = pathlib.Path("/dev/shm")
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > 2 << 30
    with tempfile.TemporaryDirectory(dir=options.scratch or (shm if roomy else None)) as scratch:
        for model in options.model:
            parity.model(model, pathlib.Path(scratch))
    verdict = f"{parity.failures} FAILED" if parity.failures else "all within the limits"
    parity.say(
        f"{verdict}: {parity.judged} cases, {parity.by_floor} of them held to {FLOOR_RATIO} times another right implementation's kl"
    )
    return 1 if parity.failures else 0


if __name__ == "__main__":
    sys.exit(main())
