#!/usr/bin/env python3
"""Measures models with transformers + bitsandbytes on this machine and writes records that stand beside quantbench's own.

    tools/run_transformers.py --model-id DIR|ID[,…] [--precision fp16,int8,4bit] [--mode eager,static] [--out FOLDER]
    quantbench report FOLDER OWN_RECORDS -o md          quantbench compare OWN_RECORDS FOLDER

Llama, Qwen2, Phi, T5 and PaliGemma. Each cell (a model in one precision and mode) is a process of its own, as quantbench's
are: it loads, generates --warmup times and then -r times exactly -n tokens, always the likeliest, whatever ends a sequence.
A visit is two generations: one that nobody watches gives the total latency, one with a streamer the time to the first
token and between tokens. The device is waited for before each clock is read. The prompt is quantbench's: the same text by
the model's tokenizer, or the same seeded ids (with -p, with --random-weights, or where the folder has no tokenizer).

int8 is LLM.int8 with threshold 6.0, 4bit NF4 with double quantisation computing in float16. eager is generate() as it comes;
static adds cache_implementation="static", with which transformers compiles the decode step by torch.compile on a GPU (on a
CPU it does not; the record's tuning says which). Memory is torch.cuda.max_memory_allocated on a GPU, which leaves out the
driver's context, or the process's most resident pages (Python and PyTorch among them) on a CPU, loading included.
A cell that fails is said, recorded, and the others go on. Ctrl-C keeps what is done. Exit status: 0; 64 usage; 70
interrupted; 71 a cell failed or is INVALID. Needs torch and transformers; for int8 and 4bit bitsandbytes and accelerate.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import tempfile
import time

import transformers_records as records

TREE = pathlib.Path(__file__).resolve().parent.parent
CAUSAL, SEQ2SEQ, PICTURE = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"
FAMILIES = {"llama": CAUSAL, "qwen2": CAUSAL, "phi": CAUSAL, "t5": SEQ2SEQ, "paligemma": PICTURE}
TEXT, PICTURE_TEXT = "Explain quantization in simple terms.", "caption en"
SEEDED_TOKENS = 8  # of a prompt where there is no tokenizer
TOKENIZER_FILES = ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json"]
M64 = 2**64 - 1
PROMPT_STREAM = 0x70726F6D7074  # as src/app/run_plan.cpp


class Refused(Exception):
    """What keeps a cell from being measured, and what to do."""


# --- what is read ----------------------------------------------------------------------------------
def seeded_ids(count, vocab, seed):
    """The ids that `quantbench run --seed` gives (SplitMix64 of a derived seed, without modulo bias)."""

    def step(state):
        state = state + 0x9E3779B97F4A7C15 & M64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & M64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
        return state, z ^ z >> 31

    state, ids = step(seed ^ PROMPT_STREAM * 0xD1342543DE82EF95 & M64)[1], []
    while len(ids) < count:
        state, value = step(state)
        if value >= (1 << 64) % vocab:
            ids.append(value % vocab)
    return ids


def folder_of(name):
    """The model's files: a folder, or a snapshot in the Hub's cache, downloaded if need be."""
    if pathlib.Path(name).expanduser().is_dir():
        return pathlib.Path(name).expanduser()
    import huggingface_hub

    repository, _, revision = name.partition("@")
    patterns = ["*.json", "*.safetensors", "tokenizer.model", "spiece.model", "*.jinja"]
    return pathlib.Path(huggingface_hub.snapshot_download(
        repository, revision=revision or None, allow_patterns=patterns, ignore_patterns=["*/*"]))  # fmt: skip


def config_text(name):
    """config.json of a folder or built into the program (src/model/published.cpp), else of the Hub."""
    path = pathlib.Path(name).expanduser() / "config.json"
    if path.is_file():
        return path.read_text()
    source = (TREE / "src/model/published.cpp").read_text()
    built_in = re.search(r'\{"' + re.escape(name) + r'", R"\((.*?)\)"', source, re.DOTALL)
    if built_in:
        return built_in.group(1)
    import huggingface_hub

    repository, _, revision = name.partition("@")
    return pathlib.Path(huggingface_hub.hf_hub_download(repository, "config.json", revision=revision or None)).read_text()


def family_class(config, name):
    import transformers

    if config.model_type not in FAMILIES:
        raise Refused(f"{name}: model_type '{config.model_type}'; expected one of {', '.join(FAMILIES)}")
    return getattr(transformers, FAMILIES[config.model_type])


def draw_weights(name, seed, folder):
    """A checkpoint of transformers' own initialisation from the seed, which each precision then loads."""
    import torch
    import transformers

    (folder / "config.json").write_text(config_text(name))
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = family_class(config, name).from_config(config, dtype=torch.float16)
    model.save_pretrained(folder)


def picture_values(options, config, folder):
    from PIL import Image
    from transformers import SiglipImageProcessor

    size = config.vision_config.image_size
    picture = Image.open(options.image_path).convert("RGB")
    return SiglipImageProcessor(size={"height": size, "width": size})(images=picture, return_tensors="pt")["pixel_values"]


def inputs_of(options, config, folder, random):
    """-> what generate() takes, text, tokenizer (the last two None where the ids are seeded)."""
    import torch
    import transformers

    has_picture = config.model_type == "paligemma"
    tokenizer, text = None, None
    if options.p is None and not random and any((folder / f).is_file() for f in TOKENIZER_FILES):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    image_id = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    images = 0
    if has_picture:
        images = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    if tokenizer:
        text = options.prompt or (PICTURE_TEXT if has_picture else TEXT)
        ids = tokenizer(text).input_ids
        if has_picture:  # as its processor has it: pictures, begin of sequence, text, newline
            bos = [] if ids and ids[0] == tokenizer.bos_token_id else [tokenizer.bos_token_id]
            ids = [image_id] * images + bos + ids + tokenizer("\n", add_special_tokens=False).input_ids
    else:
        if options.prompt:
            raise Refused("--prompt needs a model with a tokenizer, and not -p; leave it out for seeded ids")
        count = options.p - images if options.p is not None else SEEDED_TOKENS
        if count < 1:
            raise Refused(f"-p {options.p} has no room for the picture's {images} tokens and one of text")
        ids = [image_id] * images + seeded_ids(count, image_id if has_picture else config.vocab_size, options.seed)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if has_picture:
        inputs["pixel_values"] = picture_values(options, config, folder)
    return inputs, text, tokenizer


# --- a cell, in its own process --------------------------------------------------------------------
def resident_bytes(key):
    return int(records.first_line("/proc/self/status", key).split()[0]) * 1024


def load(options, cell, folder, config, device):
    import torch
    import transformers

    kind = family_class(config, cell["model"])
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(cell["precision"], torch.float16)
    if getattr(config, "quantization_config", None):
        raise Refused(f"{cell['model']} is a checkpoint that was quantised already; give the one that it was made from")
    if cell["precision"] in ("fp16", "fp32", "bf16"):
        return kind.from_pretrained(folder, dtype=dtype).to(device).eval()
    try:
        import accelerate  # noqa: F401
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise Refused(f"{cell['precision']} is skipped: {error.name} is missing; pip install bitsandbytes accelerate") from error
    form = {"load_in_8bit": True, "llm_int8_threshold": 6.0}
    if cell["precision"] == "4bit":
        form = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": torch.float16}  # fmt: skip
    form = transformers.BitsAndBytesConfig(**form)
    return kind.from_pretrained(folder, dtype=dtype, device_map={"": device}, quantization_config=form).eval()


def weight_facts(model):
    """-> bytes of weights with the scales of their formats, and how many of them are of each type."""
    types, scales = {}, 0
    for parameter in model.parameters():
        types[str(parameter.dtype)] = types.get(str(parameter.dtype), 0) + parameter.nbytes
        state, rows = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        parts = [rows] if rows is not None else []
        if state is not None:
            parts += [state.absmax, state.offset] + ([state.state2.absmax] if state.nested else [])
        scales += sum(part.nbytes for part in parts if part is not None)
    return sum(types.values()) + scales, types | {"scales": scales}


class Watch:
    """A streamer that notes when tokens come; generate() gives it the prompt first."""

    def __init__(self):
        self.at_ns = []

    def put(self, _):
        self.at_ns.append(time.perf_counter_ns())

    def end(self):
        pass


def generation_config(options, model, mode):
    import transformers

    old = model.generation_config
    start = old.decoder_start_token_id
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    static = {"cache_implementation": "static"} if mode == "static" else {}
    return transformers.GenerationConfig(
        max_new_tokens=options.n, min_new_tokens=options.n, do_sample=False, num_beams=1, eos_token_id=None,
        pad_token_id=old.pad_token_id or 0, bos_token_id=old.bos_token_id, decoder_start_token_id=start, **static,
    )  # fmt: skip


def pick_device(name):
    import torch

    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu"), lambda: None
    device = torch.device("cuda:0" if name == "cuda" else name)
    if not torch.cuda.is_available() or device.index >= torch.cuda.device_count():
        raise Refused(f"--device {name}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs")
    torch.cuda.set_device(device)
    return device, lambda: torch.cuda.synchronize(device)


def versions():
    import importlib.metadata

    found = {}
    for package in ("transformers", "torch", "bitsandbytes", "accelerate"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def measure(options, cell, folder, began_ns, tell):
    """Loads and measures; tell(kind, what) as things become known, so that nothing is lost that was measured."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, wait = pick_device(options.device)
    on_gpu = device.type == "cuda"
    packages = versions()
    name = torch.cuda.get_device_name(device) if on_gpu else records.first_line("/proc/cpuinfo", "model name") or "CPU"
    threads = torch.get_num_threads()
    tell("facts", {"device": {"id": str(device), "backend": "torch", "name": name, "threads": None if on_gpu else threads,
                              "memory_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None}})  # fmt: skip
    own_folder = folder if cell["drawn"] else folder_of(cell["model"])  # of random weights: where its config.json is
    folder = folder or own_folder
    config = transformers.AutoConfig.from_pretrained(folder)
    family_class(config, cell["model"])
    inputs, text, tokenizer = inputs_of(options, config, folder, cell["random"])
    ids = inputs["input_ids"][0].tolist()
    text_config = config.get_text_config(decoder=True)
    commit = folder.name if folder.parent.name == "snapshots" else None
    tell("facts", {
        "architecture": (config.architectures or [None])[0], "layers": text_config.num_hidden_layers, "vocab": config.vocab_size
        if hasattr(config, "vocab_size") else text_config.vocab_size, "commit": commit, "prompt_tokens": len(ids),
        "prompt_ids": ids, "prompt_text": text, "causal": FAMILIES[config.model_type] == CAUSAL,
        "picture": str(options.image_path) if "pixel_values" in inputs else None,
        "identity": (None, []) if cell["drawn"] else records.identity(own_folder, cell["random"]),
        "memory_start": None if on_gpu else resident_bytes("VmRSS"),
    })  # fmt: skip

    start = time.perf_counter_ns()
    model = load(options, cell, folder, config, device)
    wait()
    load_ns = time.perf_counter_ns() - start
    model.generation_config = chosen = generation_config(options, model, cell["mode"])
    inputs = {key: value.to(device) for key, value in inputs.items()}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    before = 1 if config.is_encoder_decoder else len(ids)

    def generate(streamer=None):
        wait()
        at = time.perf_counter_ns()
        out = model.generate(**inputs, generation_config=chosen, streamer=streamer)
        wait()
        return at, time.perf_counter_ns() - at, out[0, before:].tolist()

    def visit():
        at, total, new = generate()
        watch = Watch()
        watched_at, _, watched = generate(watch)
        times = [watched_at, *watch.at_ns[1:]]
        told = [b - a for a, b in zip(times, times[1:])]
        if watched != new:
            new = []  # the same input, other ids: no such run counts
        return {"at_ns": at - began_ns, "total_ns": total, "ids": new, "new_tokens": len(new), "prompt_tokens": len(ids),
                "token_ns": told if len(told) == options.n else []}  # fmt: skip

    bytes_, types = weight_facts(model)
    for _ in range(options.warmup):
        tell("warmup", visit())
    compiled = on_gpu and cell["mode"] == "static" and torch._dynamo.utils.counters["stats"]["calls_captured"] > 0
    mode = "dynamic cache" if cell["mode"] == "eager" else "static cache, " + ("compiled" if compiled else "not compiled")
    attention = getattr(model.config, "_attn_implementation", None)
    shown = [f"{package} {version}" for package, version in packages.items() if version and package != "accelerate"
             and (package != "bitsandbytes" or cell["precision"] in ("int8", "4bit"))]  # fmt: skip
    form = getattr(model.config, "quantization_config", None)
    told = {
        "packages": packages, "mode": cell["mode"], "compiled": compiled, "attention": attention, "weight_bytes_by_type": types,
        "quantization_config": json.loads(json.dumps(form.to_dict(), default=str)) if form else None,
        "generation_config": json.loads(json.dumps(chosen.to_diff_dict(), default=str)), "warmup_visits": options.warmup,
    }  # fmt: skip
    tuning = ", ".join([*shown, mode, str(attention)] + ([] if on_gpu else [f"{threads} threads"]))
    tell("facts", {"weight_bytes": bytes_, "load_time": load_ns, "tuning": tuning, "told": told})
    for i in range(options.r):
        run = visit()
        tell("run", run)
        if i == 0 and tokenizer:
            tell("facts", {"response_text": tokenizer.decode(run["ids"], skip_special_tokens=False)})
    if on_gpu:
        free, total = torch.cuda.mem_get_info(device)
        told |= {"max_memory_reserved_bytes": torch.cuda.max_memory_reserved(device), "device_taken_bytes": total - free}
        peak, end = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    else:
        peak, end = resident_bytes("VmHWM"), resident_bytes("VmRSS")
    tell("facts", {"memory_peak": peak, "memory_end": end, "told": told})


def one_line(error):
    text = " ".join(str(error).split())
    return text if isinstance(error, Refused) else f"{type(error).__name__}: {text}"[:500]


def child(work, arguments, pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tell = lambda kind, what: pipe.send((kind, what))
    try:
        work(*arguments, *([tell] if work is measure else []))
        tell("done", None)
    except BaseException as error:  # also what libraries exit with
        tell("error", one_line(error))
        # PyTorch has no fp16 for some products on some CPUs.
        if "Half" in str(error) and "not implemented" in str(error):
            tell("no half", None)


def in_process(work, arguments, take):
    """Runs work in a process of its own and hands over what it tells. -> why it failed, None if it did not."""
    forks = multiprocessing.get_context("fork")  # what was imported need not be again
    here, there = forks.Pipe(duplex=False)
    process = forks.Process(target=child, args=(work, arguments, there))
    process.start()
    there.close()
    error, done = None, False
    try:
        while True:
            kind, what = here.recv()
            done = done or kind == "done"
            error = what if kind == "error" else error
            take(kind, what)
    except EOFError:
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if error or done:
        return error
    killed = " (a signal; was memory short?)" if (process.exitcode or 0) < 0 else ""
    return f"its process ended with status {process.exitcode}{killed}"


# --- all of them -----------------------------------------------------------------------------------
def measure_cell(options, cell, folder, began_ns):
    """-> the cell with its runs; interrupted, with those that it has so far."""

    def take(kind, what):
        if kind == "facts":
            cell["facts"] |= what
        elif kind == "no half":
            cell["no_half"] = True
        elif kind in ("warmup", "run"):
            cell["runs" if kind == "run" else "warmup"].append(what)

    try:
        cell["error"] = in_process(measure, (options, cell, folder, began_ns), take)
        cell["status"] = "failed" if cell["error"] else "ok"
    except KeyboardInterrupt:
        cell["status"], cell["error"] = "interrupted", "interrupted"
    return cell


def new_cell(options, model, precision, mode, notes):
    drawn = options.random_weights and not pathlib.Path(model).expanduser().is_dir()
    if options.random_weights:
        notes = [*notes, f"random weights are transformers' own of seed {options.seed}, not the program's"]
    return {
        "model": model, "precision": precision, "mode": mode, "random": options.random_weights, "drawn": drawn, "notes": notes,
        "engine": "transformers" + (" static" if mode == "static" else ""), "facts": {}, "warmup": [], "runs": [],
        "new_tokens": options.n, "asked_runs": options.r, "seed": options.seed, "error": None, "no_half": False,
    }  # fmt: skip


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_cell(options, model, precision, mode, folder, started, notes=()):
    """Measures, writes, says. -> exit status of the cell."""
    cell = measure_cell(options, new_cell(options, model, precision, mode, list(notes)), folder, started["ns"])
    if cell["no_half"] and precision == "fp16":
        say(f"{model} fp16: this PyTorch cannot compute it in fp16 on this CPU ({cell['error']}); float32 instead")
        reason = "float32 in place of fp16, which this PyTorch cannot compute on this CPU"
        return run_cell(options, model, "fp32", mode, folder, started, [reason])
    record = records.record_of(cell, started["environment"], started["utc"], pathlib.Path(__file__))
    path = records.write(record, options.out)
    rate, first = (record["metrics"][key] for key in ("tokens_per_second", "time_to_first_token"))
    figures = f"{rate['median']:.4g} t/s" if rate else "no runs"
    figures += f", first token {first['median'] / 1e6:.4g} ms" if first else ""
    why = f": {cell['error']}" if cell["error"] else ""
    say(f"{model} {precision} {record['cell']['test']} {cell['engine']}: {figures}, {len(cell['runs'])} runs, "
        f"{record['outcome']['stamp']}{why} ({path})")  # fmt: skip
    if cell["status"] == "interrupted":
        raise KeyboardInterrupt
    return 71 if record["outcome"]["stamp"] == "INVALID" else 0


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(64, f"{self.prog}: {message}\n")


def options_of(arguments):
    whole = lambda least: lambda text: int(text) if int(text) >= least else Parser().error(f"{text}: at least {least}")
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model-id", action="append", required=True, metavar="DIR|ID[,…]", help="folder or org/name[@revision] of the Hub; several by commas, or the flag again")
    add("--precision", default="fp16,int8,4bit", metavar="P[,…]", help="fp16, bf16, fp32, int8 (LLM.int8), 4bit or nf4 (default: fp16,int8,4bit)")
    add("--mode", default="eager", metavar="M[,…]", help="eager, static (static cache, compiled on a GPU), or both (default: eager)")
    add("-p", type=whole(1), metavar="N", help="prompt of N seeded ids, as `quantbench run -pg N,…` (default: the text, else 8 ids)")
    add("--prompt", metavar="TEXT", help=f"default: {TEXT} Behind a picture: {PICTURE_TEXT}")
    add("-n", type=whole(1), default=64, metavar="N", help="new tokens, exactly (default: 64)")
    add("-r", type=whole(1), default=10, metavar="N", help="timed runs (default: 10)")
    add("--warmup", type=whole(1), default=3, metavar="N", help="visits before them, the first of which is the cold one (default: 3)")
    add("--device", default="auto", help="auto, cpu or cuda[:N] (default: auto, the first GPU that PyTorch sees, else the CPU)")
    add("--threads", type=whole(1), metavar="N", help="of PyTorch on a CPU (default: PyTorch's choice)")
    add("--random-weights", action="store_true", help="seeded weights for a folder's config.json or a published shape that quantbench knows: no download, no licence")
    add("--seed", type=whole(0), default=42, metavar="N", help="of random weights and of seeded ids, which are then quantbench's (default: 42)")
    add("--image-path", type=pathlib.Path, default=TREE / "models/sample.jpg", metavar="FILE", help="of PaliGemma (default: models/sample.jpg)")
    add("--out", type=pathlib.Path, metavar="FOLDER", help="of the records (default: ./quantbench-results/<utc>-transformers)")  # fmt: skip
    options = parser.parse_args(arguments)
    split = lambda texts: [part for text in texts for part in text.split(",") if part]
    options.model_id, options.modes = split(options.model_id), split([options.mode])
    options.precisions = ["4bit" if p == "nf4" else p for p in split([options.precision])]
    for given, known in ((options.precisions, records.OWN_NAME), (options.modes, ["eager", "static"])):
        if not given or any(x not in known for x in given):
            parser.error(f"{','.join(given) or 'nothing'}: expected of {', '.join(known)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.device):
        parser.error(f"--device {options.device}: expected auto, cpu, cuda or cuda:N")
    options.out = options.out or pathlib.Path(f"quantbench-results/{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}-transformers")
    if options.out.is_dir() and any(options.out.glob("*.json")):
        parser.error(f"--out {options.out} has records; give another folder, so that no cell is there twice")
    return options


def main():
    options = options_of(sys.argv[1:])
    try:
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401
    except ImportError as error:
        say(f"{error}; pip install torch transformers (and for int8 and 4bit: bitsandbytes accelerate)")
        return 64
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C
        signal.signal(ending, lambda *_: signal.raise_signal(signal.SIGINT))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    utc = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    started, worst = {"utc": utc, "ns": time.perf_counter_ns(), "environment": records.environment()}, 0
    with tempfile.TemporaryDirectory(prefix="run_transformers.") as scratch:
        try:
            for i, model in enumerate(options.model_id):
                folder = None
                if options.random_weights:
                    folder = pathlib.Path(scratch) / str(i)
                    folder.mkdir()
                    error = in_process(draw_weights, (model, options.seed, folder), lambda kind, what: None)
                    if error:
                        say(f"{model}: no random weights: {error}")
                        worst = 71
                        continue
                for precision in options.precisions:
                    for mode in options.modes:
                        worst = max(worst, run_cell(options, model, precision, mode, folder, started))
        except KeyboardInterrupt:
            say("interrupted; the records that are written are whole")
            worst = 70
    say(f"records in {options.out}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
