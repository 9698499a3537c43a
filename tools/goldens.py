#!/usr/bin/env python3
"""Writes the goldens below testdata/: what Hugging Face's libraries compute, for our tests to compare with.

    tools/goldens.py models        tiny Llama and Phi checkpoints and their logits
    tools/goldens.py t5            tiny T5 checkpoints and their logits
    tools/goldens.py paligemma     a tiny PaliGemma checkpoint and its logits
    tools/goldens.py linears       PyTorch's fp16 outputs of the linears of testdata/bitsandbytes
    tools/goldens.py rope          frequencies and magnitudes of rotary embeddings, scaled and not
    tools/goldens.py tokenizers    tokenizer.json files, token ids and decoded text
    tools/goldens.py check         holds the restated arithmetic to the files of testdata/bitsandbytes; writes nothing
    tools/goldens.py compact FILE  writes FILE, tensors that bitsandbytes computed on CUDA, into testdata/bitsandbytes

Runs on a CPU, deterministically, with exactly the versions named in PINNED:

    pip install torch==2.11.0 transformers==5.17.0 bitsandbytes==0.50.2 tokenizers==0.23.3

testdata/README.md says what every file holds.
"""

import argparse
import importlib.metadata
import os
import pathlib
import sys

PINNED = {"torch": "2.11.0", "transformers": "5.17.0", "bitsandbytes": "0.50.2", "tokenizers": "0.23.3"}
TESTDATA = pathlib.Path(__file__).resolve().parent.parent / "testdata"


def check_versions():
    for package, wanted in PINNED.items():
        found = importlib.metadata.version(package).split("+")[0]
        if found != wanted:
            sys.exit(f"goldens.py: {package} is {found}, the goldens are defined by {wanted}; install that version")


def write_linears(made_by):
    """PyTorch's own fp16 products of the inputs and weights of testdata/bitsandbytes, `<linear>.y_<input>`."""
    from safetensors.torch import load_file, save_file
    from torch.nn.functional import linear

    outputs = {}
    for path in sorted((TESTDATA / "bitsandbytes").glob("*.safetensors")):
        tensors = load_file(path)
        for name, w in tensors.items():
            prefix, _, last = name.partition(".")
            if last != "w":
                continue
            for key in [key for key in tensors if key.startswith(f"{prefix}.x")]:
                outputs[f"{prefix}.y_{key.split('.')[1]}"] = linear(tensors[key], w, tensors[f"{prefix}.b"])
    (TESTDATA / "linears").mkdir(exist_ok=True)
    save_file(outputs, TESTDATA / "linears" / "fp16.golden.safetensors", {"made_by": made_by})


def compact(source):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    import bitsandbytes_cuda

    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    save_file(bitsandbytes_cuda.compact(load_file(source)), TESTDATA / "bitsandbytes" / source.name, metadata)


ROPES = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4096},
    {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096,
     "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
     "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.707},
    {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0, "attention_factor": 1.25},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": None, "original_max_position_embeddings": 8192, "beta_fast": 0},
    {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
]  # fmt: skip


def write_rope(made_by):
    """What transformers makes of each of ROPES for two head sizes: 64 at all dimensions, 80 at two fifths."""
    import json

    from transformers import LlamaConfig, PhiConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    cases = []
    original = {"original_max_position_embeddings": 4096}
    for rope, beside in [(rope, {}) for rope in ROPES] + [(rope, original) for rope in ROPES if rope["rope_type"] != "default"]:
        shared = {"num_attention_heads": 2, "max_position_embeddings": 65536, **beside}
        for config in (
            LlamaConfig(hidden_size=128, rope_parameters=dict(rope), **shared),
            PhiConfig(hidden_size=160, rope_parameters={**rope, "partial_rotary_factor": 0.4}, **shared),
        ):
            if rope["rope_type"] == "default":
                from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

                rotary = PhiRotaryEmbedding if isinstance(config, PhiConfig) else LlamaRotaryEmbedding
                frequencies, magnitude = rotary.compute_default_rope_parameters(config)
            else:
                frequencies, magnitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
            head_dim = config.hidden_size // config.num_attention_heads
            cases.append({"config": {"max_position_embeddings": 65536, "rope_parameters": rope, **beside}, "head_dim": head_dim,
                          "fraction": config.rope_parameters.get("partial_rotary_factor", 1.0),
                          "frequencies": frequencies.tolist(), "magnitude": magnitude})  # fmt: skip
    text = json.dumps({"made_by": made_by, "cases": cases}, separators=(",", ":"))
    (TESTDATA / "rope.golden.json").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "t5", "paligemma", "linears", "rope", "tokenizers", "check", "compact"])
    parser.add_argument("file", nargs="?", type=pathlib.Path)
    options = parser.parse_args()
    what = options.what
    if (what == "compact") != (options.file is not None):
        parser.error("compact takes one FILE, the others none")
    check_versions()
    os.environ["HF_HUB_OFFLINE"] = "1"
    made_by = ", ".join(f"{package} {version}" for package, version in PINNED.items())
    if what == "tokenizers":
        import goldens_tokenizers

        goldens_tokenizers.write(TESTDATA / "tokenizers", TESTDATA.parent / "models" / "bundled", made_by)
        return
    if what == "rope":
        write_rope(made_by)
        return
    import torch

    torch.set_num_threads(1)  # the order of a sum may depend on it
    import bitsandbytes_cuda

    if what == "compact":
        compact(options.file)
    for path in sorted((TESTDATA / "bitsandbytes").glob("*.safetensors")):
        print(f"{path.name}: {bitsandbytes_cuda.check_against_cuda(path)}")
    if what == "linears":
        write_linears(made_by)
    if what == "models":
        import goldens_models

        goldens_models.write(TESTDATA / "models", made_by)
    if what == "t5":
        import goldens_t5

        goldens_t5.write(TESTDATA / "models", made_by)
    if what == "paligemma":
        import goldens_paligemma

        goldens_paligemma.write(TESTDATA / "models", made_by)


if __name__ == "__main__":
    main()
