#!/usr/bin/env python3
"""Holds whole models of the published sizes to transformers, and to bitsandbytes' arithmetic, on random weights.

    tools/parity.py --program build/gpu-check-folder/bin/engine_check [--out FOLDER] [--model …] [--precision …]

Both sides make the same weights from a seed (parity_weights.py), with planted outlier channels. The program gives
teacher-forced logits by every engine, one token a step and many in one call: of a decoder alone from position 0 and behind
a long context, of a model with an encoder behind a short and a long text (of PaliGemma with a picture in front, of which
the program is given the bytes). What each family is and does: parity_models.py. What the program is held to:

    reference   transformers in fp32 on the same weights, quantised and dequantised
    theirs      transformers in fp16, its linears replaced by LLM.int8 or NF4 as bitsandbytes computes them on CUDA
                (bitsandbytes_cuda.py, tied to the real one by testdata/bitsandbytes)
    other       the same with a stream in fp32: another right implementation. How far it lies from theirs is what the
                limits can tell apart at all

A step's linears see one row. Its teacher-forced equal is one call with LLM.int8's rule for one row applied to each,
which a few positions that are really stepped are held to. An encoder and a prompt with a picture are one call either way.

Limits: quadratic mean and maximum of the error at most twice theirs; mean KL divergence from theirs at most 1e-4
(fp16), 1e-3 (int8, 4bit); the best token the same in 100 % (fp16), 99.5 % of the positions whose gap exceeds the noise,
which a quarter of them must (seen: 74 % and more of 512), or the agreement says nothing.
Where the other right implementation is near that divergence or beyond it, so that the figure cannot tell right from
wrong, 1.25 times the other's counts instead: the case's line says so, and the last line how many they are. Mistakes
that the limits must see are made on purpose, in the middle layer, and in every layer where that is too little to be
seen; one that no limit sees even then is a failure. They are made behind a prompt, or from position 0 on alone: that the
limits would see them behind a long context is not shown. A line a case, and the same as JSON in OUT/parity.jsonl as they
come. Exit status 1 if a limit is broken or a mistake unseen. Needs torch and transformers, no network; one GPU, or a
CPU for small configurations.
"""

import argparse
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

import bitsandbytes_cuda as bnb_cuda
from parity_models import CHUNK, family_of

SEED, OUTLIERS = 42, 16
LIMITS = {"fp16": (1e-4, 1.0), "int8": (1e-3, 0.995), "4bit": (1e-3, 0.995)}  # KL, same best token
ERROR_RATIO = 2.0
LEAST_CLEAR = 0.25  # of a case's positions
FLOOR_RATIO = 1.25  # of the other's divergence, where that is what a right implementation is held to
STEPPED = 8  # positions that transformers really steps
NOISES = 8.0  # a gap between the two best tokens that is more than so many of their RMS errors is clear
MODELS = ["meta-llama/Llama-3.2-1B", "microsoft/phi-2", "google/flan-t5-base", "google/paligemma-3b-pt-224"]
TESTDATA = pathlib.Path(__file__).resolve().parent.parent / "testdata"


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
class Refused(Exception):
    pass


class Program:
    def __init__(self, path, model, device, scratch, log, skip_refused):
        self.skip_refused = skip_refused
        self.base = [str(path), "--model", model, "--device", device, "--outlier-channels", str(OUTLIERS), "--seed", str(SEED)]
        self.scratch, self.log = scratch, log

    def run(self, *arguments):
        command = self.base + [str(a) for a in arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
        self.log.write(f"$ {' '.join(command)}\n{result.stdout}")
        self.log.flush()
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {result.returncode}: {result.stdout.strip()[-600:]}")
        return result.stdout

    def check_weight(self, name, weight):
        path = self.scratch / "weight"
        self.run("weights", "--tensor", name, "--out", path)
        theirs = torch.from_file(str(path), size=weight.numel(), dtype=torch.float16)
        if not torch.equal(theirs.view(torch.int16), weight.cpu().view(-1).view(torch.int16)):
            raise RuntimeError(f"{name}: the generator of this script is not the program's")

    def logits(self, precision, engine, place, all_steps, rows):
        """Yields (steps, logits on the host) one after the other; raises Refused where the engine cannot run the model."""
        put = lambda name, tensor: (self.scratch / name).write_bytes(tensor.cpu().contiguous().numpy().tobytes())
        put("ids", place.ids.int())
        inputs = ["--ids", self.scratch / "ids"]
        if place.prompt is not None:
            put("prompt", place.prompt.int())
            inputs += ["--prompt", self.scratch / "prompt"]
        if place.picture is not None:
            put("picture", place.picture)
            inputs += ["--picture", self.scratch / "picture"]
        names = {f"{'steps' if steps else 'prompt'}:{place.context}:{place.count}": steps for steps in all_steps}
        refusal = ["--skip-refused"] if self.skip_refused else []
        said = self.run("--precision", precision, "--engine", engine, *refusal, "logits", *inputs, "--chunk", CHUNK,
                        "--out", self.scratch, "--case", ",".join(names))  # fmt: skip
        if "SKIPPED" in said:
            raise Refused(said.strip())
        for name, steps in names.items():
            path = self.scratch / f"{name.replace(':', '_')}.f32"
            flat = torch.from_file(str(path), size=path.stat().st_size // 4, dtype=torch.float32)
            yield steps, flat.view(rows, -1)
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
        self.failures, self.judged, self.by_floor, self.skipped, self.start = 0, 0, 0, 0, time.time()
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

    def see_mistakes(self, name, precision, family, theirs, place, hf, exact, floor):
        """Failures are those that no limit sees."""
        for what, tries in family.mistakes(theirs, precision, place):
            limits, where, figures = [], "", {}
            for where, mistaken in tries:
                with mistaken() as model:
                    figures = compare(family.logits(model, place, False), hf, exact)
                    del model  # the last that holds it, where it is a copy
                # Which positions are clear does not depend on the mistake.
                limits = [limit for limit in broken(figures, precision, floor) if limit != "clear"]
                if limits:
                    break
            self.failures += not limits
            seen = f"seen by {', '.join(limits)}" if limits else "FAILED: seen by NOTHING"
            text = f"{what} {where}".strip()
            self.say(f"{name} {precision} {place.text()}, {text}: {show(figures)}: {seen}")
            self.record(what=f"{name} {precision} {place.text()} mistake: {text}", broken=limits, **figures)

    def model(self, name, scratch):
        o = self.options
        program = Program(o.program, name, o.device, scratch, self.log, o.skip_refused)
        family = family_of(config_of(o.program, name, scratch), o.torch_device)
        weights = family.weights(SEED, OUTLIERS)
        self.say(f"{name}: {sum(w.numel() for w in weights.values()):,} weights made")
        # One of each kind.
        kinds = {("".join(c for c in n if not c.isdigit())): n for n in weights if weights[n].numel() < 1 << 26}
        for tensor in kinds.values():
            program.check_weight(family.published(tensor), weights[tensor])
        places = [place for place in family.places(name, o) if place.name in o.place]
        for precision in o.precision:
            try:
                self.precision(name, precision, program, family, weights, places)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                self.failures += 1
                self.say(f"{name} {precision}: FAILED: {error}")
                self.record(what=f"{name} {precision}", error=str(error))
            gc.collect()
            if o.torch_device == "cuda":
                torch.cuda.empty_cache()

    def precision(self, name, precision, program, family, weights, places):
        device = self.options.torch_device
        theirs, other, reference = family.build_all(weights, precision)
        expected, floors = {}, {}
        title = lambda place, kind: f"{name} {precision} {kind} {place.text()}"
        for place in places:
            exact = family.logits(reference, place, False)
            few = place.few(STEPPED)
            few_rows, few_floor = family.rows_before + few.count, 0.0
            for steps in (True, False):
                hf = family.logits(theirs, place, steps)
                another = family.logits(other, place, steps)
                figures = compare(another, hf, exact)
                floors[place.name, steps] = figures["kl"]
                if steps:  # a few positions' mean may lie above that of all
                    few_floor = max(figures["kl"], compare(another[:few_rows], hf[:few_rows], exact[:few_rows])["kl"])
                del another
                # Kept on the host: the GPU is the program's, too.
                expected[place.name, steps] = hf.cpu(), exact.cpu()
                what = title(place, "steps" if steps else "prompt")
                self.say(f"{what}, another right one: {show(figures)}")
                self.record(what=f"{what} other", **figures)
            if not family.shows_mistakes(place):
                continue
            self.see_mistakes(name, precision, family, theirs, place, hf, exact, floors[place.name, False])
            stepped, hf = family.really_stepped(theirs, few), expected[place.name, True][0][:few_rows].to(device)
            self.judge(title(place, "transformers, really stepped,"), compare(stepped, hf, exact[:few_rows]), precision, few_floor)
            del hf, exact
        del theirs, other, reference
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        for place in places:
            rows = family.rows_before + place.count
            for engine in self.options.engine:
                # A prompt is the same in every engine.
                all_steps = [True, False] if engine == self.options.engine[-1] else [True]
                try:
                    for steps, ours in program.logits(precision, engine, place, all_steps, rows):
                        hf, exact = (t.to(device) for t in expected[place.name, steps])
                        what = title(place, f"{engine} {'steps' if steps else 'prompt'}")
                        self.judge(what, compare(ours.to(device), hf, exact), precision, floors[place.name, steps], engine=engine)
                except Refused as refusal:
                    self.skipped += 1
                    self.say(f"{title(place, engine)}: {refusal}")
                    self.record(what=title(place, engine), skipped=str(refusal))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True, help="engine_check of a build")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("parity"), help="folder for the results")
    parser.add_argument("--model", nargs="+", default=MODELS, help="built-in configurations, or files config.json")
    parser.add_argument("--precision", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--engine", nargs="+", default=["persistent", "graph"])
    parser.add_argument("--device", default="cuda", help="of the program")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--positions", type=int, default=512, help="judged from position 0 on")
    parser.add_argument("--skip-refused", action="store_true", help="an engine that cannot run a model is no failure, and said")
    parser.add_argument("--behind", type=int, default=512, help="judged behind a long context")
    parser.add_argument("--place", nargs="+", default=["short", "long"], choices=["short", "long"], help="which of those two")
    parser.add_argument("--context", type=int, default=100, help="that context, of a model that is not built in")
    parser.add_argument("--scratch", type=pathlib.Path, help="a folder for some 1.1 GB of logits at a time")
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
    if parity.skipped:
        verdict += f", {parity.skipped} SKIPPED since the engine cannot run the model"
    parity.say(
        f"{verdict}: {parity.judged} cases, {parity.by_floor} of them held to {FLOOR_RATIO} times another right implementation's kl"
    )
    return 1 if parity.failures else 0


if __name__ == "__main__":
    sys.exit(main())
