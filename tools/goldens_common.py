"""What all golden models share: the quantised linears, the comparison with the fp32 reference, and the proof that each
golden tells a right implementation from a mistaken one."""

import copy
import re

import torch
from torch import nn

import bitsandbytes_cuda as bnb_cuda

LIMITS = {"fp16": {"kl": 1e-4, "top1": 1.0}, "int8": {"kl": 1e-3, "top1": 0.995}, "nf4": {"kl": 1e-3, "top1": 0.995}}
ERROR_RATIO = 2.0  # max and RMS error against the fp32 reference, times Hugging Face's


def quantised_linears(model):
    """The linears that transformers hands to bitsandbytes: all but the head, and T5's wo, which it keeps in fp32."""
    kept = ("lm_head", "wo")
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.split(".")[-1] not in kept}


def is_norm(module):
    return "Norm" in type(module).__name__


def halved(model):
    """A copy in fp16, but for T5's wo."""
    half = copy.deepcopy(model).half()
    for (name, module), source in zip(half.named_modules(), model.modules()):
        if name.endswith(".wo"):
            module.weight.data = source.weight.data.clone()
    return half


class Int8Linear(nn.Module):
    """chunk: rows that are handed over at once, where that is a mistake."""

    def __init__(self, linear, threshold=bnb_cuda.THRESHOLD, column_rule=True, chunk=1 << 30):
        super().__init__()
        self.cb, self.scb = bnb_cuda.quantize_int8(linear.weight.data.half())
        self.bias = None if linear.bias is None else linear.bias.data.half()
        self.threshold, self.column_rule, self.chunk = threshold, column_rule, chunk

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        y = [
            bnb_cuda.int8_linear(part, self.cb, self.scb, self.bias, self.threshold, self.column_rule)[0]
            for part in rows.split(self.chunk)
        ]
        return torch.cat(y).view(*x.shape[:-1], -1)

    def dequantised(self):
        return self.cb.float() * (self.scb[:, None] / 127.0)


class Nf4Linear(nn.Module):
    """bitsandbytes' quantisation and its dequantise-then-linear product in fp16."""

    def __init__(self, linear, nested=True):
        super().__init__()
        import bitsandbytes.functional as F

        weight = linear.weight.data.half().contiguous()
        options = dict(blocksize=bnb_cuda.BLOCK, quant_type="nf4", compress_statistics=nested)
        self.packed, self.state = F.quantize_4bit(weight, **options)
        self.bias = None if linear.bias is None else linear.bias.data.half()
        self.weight16 = self.dequantised().half()

    def dequantised(self):
        s = self.state
        scales = s.absmax
        if s.nested:
            scales = bnb_cuda.nested_scales(scales, s.state2.code, s.state2.absmax, s.offset)
        return bnb_cuda.dequantize_nf4(self.packed, scales, s.code, s.shape)

    def forward(self, x):
        return nn.functional.linear(x, self.weight16, self.bias)


class OtherRounding(nn.Module):
    """A linear of the fp16 model in a stream kept in fp32: another implementation, and a correct one."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x.half()).float()


def replace_linears(model, make, chosen=lambda name: True):
    for name, linear in quantised_linears(model).items():
        if chosen(name):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make(linear))
    return model


def with_dequantised(model, make):
    """The fp32 reference of a quantised mode: the same quantised weights, dequantised to fp32."""
    model = copy.deepcopy(model)
    for linear in quantised_linears(model).values():
        linear.weight.data = make(linear).dequantised()
    return model


def variants(model):
    """-> reference models in fp32 and Hugging Face models in fp16, by mode."""
    references = {
        "fp16": model,
        "int8": with_dequantised(model, Int8Linear),
        "nf4": with_dequantised(model, Nf4Linear),
    }
    hf = {
        "fp16": halved(model),
        "int8": replace_linears(halved(model), Int8Linear),
        "nf4": replace_linears(halved(model), Nf4Linear),
    }
    return references, hf


def compare(ours, hf, reference):
    """-> the four figures of the limits table for teacher-forced logits [.., vocab]."""
    ours, hf, reference = ours.double(), hf.double(), reference.double()
    error, hf_error = ours - reference, hf - reference
    log_p, log_q = hf.log_softmax(-1), ours.log_softmax(-1)
    top = hf.topk(2, -1)
    # Both sides may be off by the noise, so only gaps beyond twice it decide.
    clear = (top.values[..., 0] - top.values[..., 1]) > 2 * hf_error.abs().max()
    agree = (ours.argmax(-1) == top.indices[..., 0])[clear]
    return {
        "max": float(error.abs().max() / hf_error.abs().max()),
        "rms": float(error.pow(2).mean().sqrt() / hf_error.pow(2).mean().sqrt()),
        "kl": float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        "top1": float(agree.double().mean()) if agree.numel() else 1.0,
    }


def broken(figures, mode):
    """The limits that the figures break; NaN breaks."""
    out = [k for k in ("max", "rms") if not figures[k] <= ERROR_RATIO]
    out += ["kl"] if not figures["kl"] <= LIMITS[mode]["kl"] else []
    return out + (["top1"] if not figures["top1"] >= LIMITS[mode]["top1"] else [])


def show(figures):
    return "max {max:.2f}x rms {rms:.2f}x kl {kl:.1e} top1 {top1:.3f}".format(**figures)


def each(select, change):
    """A mistake: change(module) for each module that select(name, module) picks."""

    def apply(m):
        hit = [change(module) for name, module in m.named_modules() if select(name, module)]
        assert hit, "the mutation found nothing to change"
        return m

    return apply


def quantise(**options):
    """An int8 model, its linears made with a mistake's options."""
    return lambda m: replace_linears(m, lambda linear: Int8Linear(linear, **options))


def zero_bias(module):
    module.bias.data.zero_()


def count_outliers(model, run):
    """-> (layers with an outlier, linears with outliers in some rows only) in run(model)."""
    layers, some_rows = set(), set()

    def hook(name):
        def look(module, inputs):
            outlier = inputs[0].float().abs().reshape(-1, inputs[0].shape[-1]) >= bnb_cuda.THRESHOLD
            layer = re.match(r".*?\.(layers|block)\.\d+\.", name)
            if outlier.any() and layer:
                layers.add(layer[0])
            if bool((outlier.any(0) & ~outlier.all(0)).any()):
                some_rows.add(name)

        return look

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, Int8Linear)]
    run(model)
    for handle in handles:
        handle.remove()
    return len(layers), len(some_rows)


def prove(name, model, runs, references, hf, mistakes, own_steps=("fp16", "int8", "nf4")):
    """Prints how near a correct implementation comes and how far each mistake is; raises where a golden cannot tell.

    runs: "full" and "steps" -> a function that gives a model's logits [.., vocab]. mistakes: mode -> name -> a function
    that makes the mistake in a copy of the fp16 model, run in full. own_steps: the modes whose golden holds the logits
    of "steps"; those of the others are compared with "full".
    """
    print(f"{name}: logits' sigma {float(runs['full'](model).std(-1).mean()):.2f}")
    layers, some_rows = count_outliers(hf["int8"], runs["full"])
    print(f"  outliers in {layers} layers, in some rows only in {some_rows} linears")
    assert layers >= 3 and some_rows >= 6, f"{name}: too few outliers were planted"
    wrong = []
    for mode in mistakes:
        golden = {key: runs[key if mode in own_steps else "full"](hf[mode]) for key in runs}
        reference = runs["full"](references[mode])
        error = (golden["full"].double() - reference.double()).abs()
        print(f"  {mode}: Hugging Face's error max {error.max():.3f}, rms {error.pow(2).mean().sqrt():.4f}")
        wrap = {"fp16": lambda m: m.half(), "int8": lambda m: Int8Linear(m), "nf4": lambda m: Nf4Linear(m)}[mode]
        other = replace_linears(copy.deepcopy(model), lambda linear: OtherRounding(wrap(linear)))
        for key, run in runs.items():
            figures = compare(run(other), golden[key], reference)
            print(f"    other rounding, {key}: {show(figures)}")
            wrong += [f"{mode}: a correct implementation breaks {b}" for b in broken(figures, mode)]
        for mistake, make in mistakes[mode].items():
            figures = compare(runs["full"](make(halved(model))), golden["full"], reference)
            limits = broken(figures, mode)
            print(f"    {mistake}: {show(figures)} breaks {', '.join(limits) or 'NOTHING'}")
            wrong += [] if limits else [f"{mode}: {mistake} goes unseen"]
    assert not wrong, f"{name}: " + "; ".join(wrong)


def clear_best(hf, reference):
    """Hugging Face's best id of each position where all of its runs agree and lead by twice their largest error, else
    -1: int32 [.., tokens]. hf: logits [.., tokens, vocab] of each run."""
    best = hf[0].argmax(-1)
    for logits in hf:
        top = logits.float().topk(2, -1)
        clear = (top.values[..., 0] - top.values[..., 1]) > 2 * (logits.double() - reference.double()).abs().max()
        best = torch.where(clear & (top.indices[..., 0] == best), best, -1)
    return best.int()


def dequantize(saved, linear_name):
    """The fp32 weight of a 4-bit linear in the tensors that transformers saved."""
    prefix = f"{linear_name}."
    return bnb_cuda.dequantize_saved({k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}, "weight")
