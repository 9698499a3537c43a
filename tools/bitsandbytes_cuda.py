"""The published CUDA arithmetic of bitsandbytes 0.50.2, restated in PyTorch operation by operation.

Why restated: on a CPU bitsandbytes takes other paths. Its int8 product is scaled by (row * column) * 6.200124e-05
instead of CUDA's (row * scale) * SCB * 6.200012e-05 with one fused multiply-add of the bias; an all-zero row becomes
0 * inf = NaN there; and on CPUs with AVX512-BF16 its 4-bit weights are repacked and multiplied in bfloat16. The
functions below meet the outputs that bitsandbytes computed on an H100 and an H200 (testdata/bitsandbytes):

    int8   0 ulp on every output, equal codes, row statistics, outlier columns and int32 sums;
    nf4    equal dequantised weights; the product is bitsandbytes' own dequantise-then-linear path, which CUDA takes for
           weights whose k is not a multiple of 64 (met within 1 ulp) and for many rows. CUDA's fused kernel for the
           rest rounds more often and errs about twice as much, so goldens made here set the stricter limit.

`check_against_cuda` proves it and raises where it does not hold.
"""

import json

import torch
from safetensors.torch import load_file

THRESHOLD = 6.0
BLOCK = 64
NESTED_BLOCK = 256
# The constant of kdequant_mm_int32_fp16, close to 1/127^2 = 6.2000124e-05 but not equal to it.
INT8_SCALE = torch.tensor(6.200012e-05, dtype=torch.float32)


def quantize_rows(x, threshold, column_rule=True):
    """x [rows, k] fp16 -> codes [rows, k] int8, absmax [rows] fp32, outlier columns [c] int64 (kInt8VectorQuant)."""
    x = x.float()
    outlier = x.abs() >= threshold if threshold > 0 else torch.zeros_like(x, dtype=torch.bool)
    kept = x.masked_fill(outlier, 0.0)
    absmax = kept.abs().amax(1)
    scale = torch.where(absmax > 0, 127.0 / absmax, torch.zeros_like(absmax))
    codes = torch.round(kept * scale[:, None])
    columns = outlier.any(0).nonzero().view(-1)
    if x.shape[0] > 1 and column_rule:  # the more-than-one-row rule: an outlier anywhere takes its whole column out
        codes[:, columns] = 0
    return codes.to(torch.int8), absmax, columns


def quantize_int8(weight):
    """weight [n, k] fp16 -> CB [n, k] int8, SCB [n] fp32."""
    codes, absmax, _ = quantize_rows(weight, 0.0)
    return codes, absmax


def int8_linear(x, cb, scb, bias, threshold=THRESHOLD, column_rule=True):
    """LLM.int8: x [rows, k] fp16 -> (y [rows, n] fp16, codes, absmax, columns, int32 sums [rows, n]).

    column_rule=False keeps only the outlier elements, never their columns: each row as in a call of its own, which of
    several rows in one call is the mistake that a golden must catch.
    """
    codes, absmax, columns = quantize_rows(x, threshold, column_rule)
    outliers = x[:, columns].float()
    if not column_rule:
        outliers = outliers * (outliers.abs() >= threshold)
    sums = (codes.double() @ cb.double().T).to(torch.int32)  # exact: below 2^53
    scaled = (sums.float() * absmax[:, None]) * scb[None]
    addend = torch.zeros(1, device=x.device) if bias is None else bias.float()[None]
    # Double holds the product of two floats exactly, so this rounds as a fused multiply-add does.
    y = (scaled.double() * INT8_SCALE.double() + addend.double()).float().half()
    if columns.numel():
        # int8_vectorwise_dequant multiplies by this constant, 1/127, in fp32; cast to fp16 before the product.
        sub = (cb[:, columns].float() * scb[:, None] * 7.874015718698502e-3).half()
        y = (y.float() + outliers @ sub.float().T).half()
    return y, codes, absmax, columns, sums


def nested_code():
    """The 256 values of the 8-bit dynamic code (create_dynamic_map)."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        middles = (10 ** (i - 6)) * ((edges[:-1] + edges[1:]) / 2)
        values += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32)


NF4_CODE = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], dtype=torch.float32,
)  # fmt: skip


def nearest(x, code):
    """Indices of the nearest values of a sorted code, through strict comparisons with its midpoints; NaN gives 0."""
    middles = ((code[:-1] + code[1:]) * 0.5).to(x.device)
    return torch.bucketize(x.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), middles)


def quantize_nf4(weight):
    """weight [n, k] fp16 -> packed [(n * k + 1) / 2], 8-bit scales, nested absmax, offset: double quantisation.

    The offset is a mean, which PyTorch sums in an order of its own: here in double, within 2 ulp of it.
    """
    flat = weight.float().view(-1)
    padding = -flat.numel() % BLOCK
    blocks = torch.nn.functional.pad(flat, (0, padding)).view(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    codes = nearest(blocks * (1.0 / absmax)[:, None], NF4_CODE).to(torch.uint8).view(-1)[: flat.numel() + flat.numel() % 2]
    packed = codes[0::2] << 4 | codes[1::2]
    offset = absmax.double().mean().float()
    centred = absmax - offset
    groups = torch.nn.functional.pad(centred, (0, -centred.numel() % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    nested_absmax = groups.abs().amax(1)
    scaled = (groups * (1.0 / nested_absmax)[:, None]).view(-1)[: centred.numel()]
    return packed, nearest(scaled, nested_code()).to(torch.uint8), nested_absmax, offset


def nested_scales(absmax_codes, quant_map, nested_absmax, offset):
    """The fp32 scale of each block of 64 from its 8-bit code."""
    block = torch.arange(absmax_codes.numel(), device=absmax_codes.device) // NESTED_BLOCK
    return quant_map[absmax_codes.view(-1).long()] * nested_absmax[block] + offset


def dequantize_nf4(packed, scales, quant_map, shape):
    """-> [n, k] fp32, not yet rounded to fp16; high nibble first, blocks run over the flattened weight."""
    n, k = shape
    packed = packed.view(-1)
    codes = torch.stack([packed >> 4, packed & 15], 1).view(-1)[: n * k].long()
    return (quant_map[codes] * scales.repeat_interleave(BLOCK)[: n * k]).view(n, k)


def dequantize_saved(tensors, name):
    """The fp32 weight of a 4-bit linear as transformers saves it, nested or plain."""
    state = json.loads(bytes(tensors[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
    scales = tensors[f"{name}.absmax"]
    if f"{name}.nested_absmax" in tensors:
        scales = nested_scales(
            scales, tensors[f"{name}.nested_quant_map"], tensors[f"{name}.nested_absmax"], state["nested_offset"]
        )
    return dequantize_nf4(tensors[name], scales, tensors[f"{name}.quant_map"], state["shape"])


def fnv1a(tensor):
    """FNV-1a of a tensor's bytes, 64 bits, as the int64 tensor [1] that stands for it in testdata/bitsandbytes."""
    value = 0xCBF29CE484222325
    for byte in tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return torch.tensor([value - (value >> 63 << 64)])


def compact(full):
    """The tensors of a file computed on CUDA without those that follow from others bit by bit.

    Dequantised weights, nf4 codes and the codes of int8 inputs are kept as their hash; int8 weights as the hash of
    CUDA's codes and the elements where these are not `quantize_int8`'s, [c, 2] of (index, CUDA's code); the plain nf4
    codes are those of double quantisation.
    """
    kept = {}
    for name, tensor in full.items():
        linear, _, rest = name.partition(".")
        if rest in ("nf4.dequant", "nf4.weight") or rest.startswith("int8.codes_"):
            kept[f"{name}.fnv1a"] = fnv1a(tensor)
        elif rest == "int8.weight":
            ours = quantize_int8(full[f"{linear}.w"])[0]
            at = (ours != tensor).view(-1).nonzero().view(-1)
            kept[f"{name}.ties"] = torch.stack([at, tensor.view(-1)[at].long()], 1).int()
            kept[f"{name}.fnv1a"] = fnv1a(tensor)
        elif rest == "nf4_plain.weight":
            assert torch.equal(tensor, full[f"{linear}.nf4.weight"]), f"{name} is not nf4.weight"
        else:
            kept[name] = tensor
    return kept


def int8_codes(g, linear):
    """-> CUDA's int8 weight of a linear of a compact file, and how many of its codes are not `quantize_int8`'s."""
    codes = quantize_int8(g[f"{linear}.w"])[0]
    ties = g[f"{linear}.int8.weight.ties"]
    at, theirs = ties[:, 0].long(), ties[:, 1].to(torch.int8)
    # CUDA's __fdividef rounds otherwise near ties.
    assert bool(((codes.view(-1)[at].int() - theirs.int()).abs() == 1).all()), f"{linear}: a code differs by more than one"
    codes.view(-1)[at] = theirs
    assert torch.equal(fnv1a(codes), g[f"{linear}.int8.weight.fnv1a"]), f"{linear}: int8 codes differ"
    return codes, len(at)


def ulps(a, b):
    """Distance of two fp16 tensors in units of the last place."""

    def ordered(t):
        bits = t.contiguous().view(torch.int16).int()
        return torch.where(bits < 0, -32768 - bits, bits)

    return (ordered(a) - ordered(b)).abs()


def check_against_cuda(path):
    """Holds the functions above to one file of tensors computed by bitsandbytes on CUDA; returns a summary line."""
    g = load_file(path)
    outputs, worst_nf4, weight_ties, weights, scale_ties, scales = 0, 0, 0, 0, 0, 0
    for p in sorted({key.split(".")[0] for key in g}):
        assert torch.equal(quantize_int8(g[f"{p}.w"])[1], g[f"{p}.int8.SCB"]), f"{path}: {p}: SCB differs"
        cb, ties = int8_codes(g, p)
        weight_ties, weights = weight_ties + ties, weights + cb.numel()
        saved = {key[len(p) + 5 :]: tensor for key, tensor in g.items() if key.startswith(f"{p}.nf4.weight.")}
        packed, absmax8, nested_absmax, offset = quantize_nf4(g[f"{p}.w"])
        assert torch.equal(fnv1a(packed), saved["weight.fnv1a"]), f"{path}: {p}: nf4 codes differ"
        saved["weight"] = packed
        dequantised = dequantize_saved(saved, "weight")
        same = torch.equal(fnv1a(dequantised.half()), g[f"{p}.nf4.dequant.fnv1a"])
        assert same, f"{path}: {p}: dequantised nf4 differs"
        assert torch.equal(nested_code(), saved["weight.nested_quant_map"]), f"{path}: the nested code differs"
        state = json.loads(bytes(saved["weight.quant_state.bitsandbytes__nf4"].tolist()))
        assert abs(float(offset) / state["nested_offset"] - 1) < 2.5e-7, f"{path}: {p}: nf4 offset differs"
        assert torch.allclose(nested_absmax, saved["weight.nested_absmax"], rtol=1e-6, atol=0), f"{path}: {p}: absmax"
        off = (absmax8.int() - saved["weight.absmax"].int()).abs()
        scale_ties, scales = scale_ties + int(off.sum()), scales + off.numel()
        for x in [key.split(".")[1] for key in g if key.startswith(f"{p}.x")]:
            suffix = f"_{x}" if f"{p}.int8.y_{x}" in g else x[1:]
            y, codes, absmax, columns, sums = int8_linear(g[f"{p}.{x}"], cb, g[f"{p}.int8.SCB"], g[f"{p}.int8.bias"])
            assert int(ulps(y, g[f"{p}.int8.y{suffix}"]).max()) == 0, f"{path}: {p}.{x}: int8 output differs"
            outputs += y.numel()
            if f"{p}.int8.codes_{x}.fnv1a" in g:
                assert torch.equal(fnv1a(codes), g[f"{p}.int8.codes_{x}.fnv1a"]), f"{path}: {p}.{x}: int8 codes differ"
            for name, ours in (("rowstat", absmax), ("outlier_columns", columns), ("acc", sums)):
                if f"{p}.int8.{name}_{x}" in g:
                    assert torch.equal(ours, g[f"{p}.int8.{name}_{x}"]), f"{path}: {p}.{x}: int8 {name} differ"
            if f"{p}.nf4.y{suffix}" in g and g[f"{p}.w"].shape[1] % BLOCK:
                y = torch.nn.functional.linear(g[f"{p}.{x}"], dequantised.half(), g[f"{p}.b"])
                worst_nf4 = max(worst_nf4, int(ulps(y, g[f"{p}.nf4.y{suffix}"]).max()))
    assert scale_ties * 10**3 <= scales, f"{path}: {scale_ties} of {scales} nf4 scales"
    assert weight_ties * 10**4 <= weights and worst_nf4 <= 1, f"{path}: {weight_ties} codes, nf4 {worst_nf4} ulp"
    return (
        f"{outputs} int8 outputs equal; {weight_ties} of {weights} weight codes off by one at ties; "
        f"nf4 codes equal, {scale_ties} of {scales} scales off by one; nf4 where k % 64 != 0 within {worst_nf4} ulp"
    )
