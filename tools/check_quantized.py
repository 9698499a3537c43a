#!/usr/bin/env python3
"""Loads what `quantbench quantize` wrote with transformers + bitsandbytes, and compares it with what those make of the
same model themselves.

    quantbench quantize --model-id MODEL --precision 4bit --out OUT
    tools/check_quantized.py MODEL OUT

MODEL is a folder with the unquantised checkpoint, OUT the folder that was written; of a causal model, of T5 or of
PaliGemma, by the class that config.json names. Passes if
  - transformers loads OUT as it is, and every linear it holds as quantised is one that it quantises itself;
  - codes and scales are bitsandbytes' (int8: codes and SCB; nf4: codes, offset, absmax codes, nested absmax);
  - the logits of OUT are as near to an fp32 run of its own weights as those of bitsandbytes' model are to theirs
    (twice the error at most), and the two models agree (mean KL divergence at most 1e-3).
bitsandbytes on a CPU errs beside ties of absmax codes, so there 3 in 1000 of those may be one off; on a GPU 1 in 1000.
Runs on the CPU; needs torch, transformers and bitsandbytes. Made with transformers 5.17.0 and bitsandbytes 0.50.2.
"""

import argparse
import copy
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes as bnb  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import BitsAndBytesConfig  # noqa: E402

SEQUENCES, TOKENS = 2, 48
failures = []


def check(holds, text):
    print(("ok      " if holds else "FAILED  ") + text)
    if not holds:
        failures.append(text)


def quantised_linears(model):
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def load(folder, **options):
    config = json.loads((folder / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    model = model_class.from_pretrained(folder, dtype=torch.float16, device_map="cpu", **options).eval()
    for linear in quantised_linears(model).values():
        # With AVX512-BF16 4-bit weights are repacked in place and multiplied in bfloat16, which is far from what a GPU
        # does, and only for some sizes. Without, they are dequantised to fp16, as a GPU does for many rows.
        if hasattr(linear, "support_avx512bf16_for_cpu"):
            linear.support_avx512bf16_for_cpu = False
    return model


def int8_state(linear):
    """Codes [n, k] int8 and SCB [n] fp32, wherever this version keeps them."""
    weight, state = linear.weight, linear.state
    codes = weight.CB if getattr(weight, "CB", None) is not None else state.CB if state.CB is not None else weight.data
    scb = weight.SCB if getattr(weight, "SCB", None) is not None else state.SCB
    return codes, scb


def dequantised(linear):
    """The linear's weight in fp32, before any rounding to fp16."""
    if isinstance(linear, bnb.nn.Linear8bitLt):
        codes, scb = int8_state(linear)
        return codes.float() * scb.float()[:, None] / 127
    state = linear.weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = state.state2.code[state.absmax.long()] * state.state2.absmax.repeat_interleave(256)[: absmax.numel()]
        absmax = absmax + state.offset
    packed = linear.weight.data.view(-1)
    codes = torch.stack([packed >> 4, packed & 15], 1).view(-1)[: state.shape.numel()].long()
    return (state.code[codes] * absmax.float().repeat_interleave(64)[: codes.numel()]).view(state.shape)


def reference(source, quantised):
    """The fp32 model with the quantised model's weights, dequantised."""
    model = copy.deepcopy(source).float()
    for name, linear in quantised_linears(quantised).items():
        model.get_submodule(name).weight.data = dequantised(linear)
    return model


def off(a, b):
    return int((a.view(-1).int() != b.view(-1).int()).sum())


def compare_int8(ours, theirs):
    codes_off = count = 0
    scb_equal, worst = True, 0
    for name, linear in theirs.items():
        (a, a_scb), (b, b_scb) = int8_state(ours[name]), int8_state(linear)
        codes_off, count = codes_off + off(a, b), count + b.numel()
        worst = max(worst, int((a.int() - b.int()).abs().max()))
        scb_equal &= torch.equal(a_scb.float().view(-1), b_scb.float().view(-1))
    check(scb_equal, "every SCB is equal")
    check(codes_off * 10**4 <= count and worst <= 1, f"{codes_off} of {count} codes off, by {worst} at most")


def compare_nf4(ours, theirs):
    bytes_off = count = absmax_off = absmax_count = 0
    offset_ulps = nested = 0.0
    for name, linear in theirs.items():
        a, b = ours[name].weight, linear.weight
        bytes_off, count = bytes_off + off(a.data, b.data), count + b.data.numel()
        a, b = a.quant_state, b.quant_state
        absmax_off, absmax_count = absmax_off + off(a.absmax, b.absmax), absmax_count + b.absmax.numel()
        ulp = torch.nextafter(b.offset.abs(), torch.tensor(torch.inf)) - b.offset.abs()
        offset_ulps = max(offset_ulps, float((a.offset - b.offset).abs() / ulp))
        nested = max(nested, float(((a.state2.absmax - b.state2.absmax) / b.state2.absmax).abs().max()))
    check(bytes_off == 0, f"{bytes_off} of {count} bytes of codes differ")
    check(offset_ulps <= 2, f"offsets within {offset_ulps:.0f} ulp")
    check(nested <= 1e-6, f"nested absmax within {nested:.1e}")
    check(absmax_off * 1000 <= 3 * absmax_count, f"{absmax_off} of {absmax_count} absmax codes differ")


def errors(logits, expected):
    difference = (logits.double() - expected.double()).abs()
    return float(difference.max()), float(difference.square().mean().sqrt())


def seeded_inputs(config):
    """For each sequence what a model of this kind reads: ids; also a decoder's own; or a picture, then ids."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda most: torch.randint(0, most, (SEQUENCES, TOKENS), generator=generator)  # noqa: E731
    if config.is_encoder_decoder:
        read, said = draw(config.vocab_size), draw(config.vocab_size)
        return [{"input_ids": a[None], "decoder_input_ids": b[None]} for a, b in zip(read, said)]
    if config.model_type != "paligemma":
        return [{"input_ids": row[None]} for row in draw(config.vocab_size)]
    vision = config.vision_config
    picture = torch.full((1, (vision.image_size // vision.patch_size) ** 2), config.image_token_id)
    inputs = []
    for row in draw(config.image_token_id):
        ids = torch.cat([picture, row[None]], 1)
        pixels = 2 * torch.rand(1, 3, vision.image_size, vision.image_size, generator=generator) - 1
        inputs.append({"input_ids": ids, "pixel_values": pixels, "token_type_ids": torch.zeros_like(ids)})
    return inputs


def fitting(inputs, model):
    return {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in inputs.items()}


@torch.inference_mode()
def compare_logits(source, ours, theirs):
    inputs = seeded_inputs(source.config)
    run = lambda model: torch.cat([model(**fitting(one, model)).logits.float() for one in inputs])  # noqa: E731
    a, b = run(ours), run(theirs)
    a_max, a_rms = errors(a, run(reference(source, ours)))
    b_max, b_rms = errors(b, run(reference(source, theirs)))
    check(a_rms <= 2 * b_rms, f"RMS error {a_rms:.2e} of logits, bitsandbytes' own {b_rms:.2e}")
    check(a_max <= 2 * b_max, f"largest error {a_max:.2e}, bitsandbytes' own {b_max:.2e}")
    p, q = b.log_softmax(-1).double(), a.log_softmax(-1).double()
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    check(kl <= 1e-3, f"mean KL divergence {kl:.1e}")
    top = b.topk(2).values
    clear = (top[..., 0] - top[..., 1]) > 4 * b_max
    agree = (a.argmax(-1) == b.argmax(-1))[clear].float().mean() if clear.any() else torch.tensor(1.0)
    check(float(agree) >= 0.995, f"top-1 agrees on {float(agree):.1%} of the {int(clear.sum())} positions with a clear first")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("quantised", type=pathlib.Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.quantised / "config.json").read_text())["quantization_config"]
    options = {key: value for key, value in config.items() if key not in ("quant_method", "llm_int8_skip_modules")}
    print(f"{arguments.quantised}: {'int8' if config['load_in_8bit'] else 'nf4'}, torch {torch.__version__}")

    source = load(arguments.model)
    ours = load(arguments.quantised)
    theirs = load(arguments.model, quantization_config=BitsAndBytesConfig(**options))
    a, b = quantised_linears(ours), quantised_linears(theirs)
    check(a.keys() == b.keys() and len(a) > 0, f"{len(a)} linears are quantised, bitsandbytes quantises {len(b)}")
    kept = {name for name, module in source.named_modules() if isinstance(module, torch.nn.Linear)} - set(a)
    print("        kept in fp16: " + ", ".join(sorted(kept)))
    if not failures:
        (compare_int8 if config["load_in_8bit"] else compare_nf4)(a, b)
        compare_logits(source, ours, theirs)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
