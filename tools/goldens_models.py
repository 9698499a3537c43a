"""Tiny Llama and Phi checkpoints that can fail, and their logits from transformers and bitsandbytes.

Every parameter is redrawn, since transformers' initialisation (zero biases, unit norms, rare outliers) lets mistakes
pass; activations of at least 6.0 are planted so that LLM.int8's outlier path and its more-than-one-row rule decide
results; and `mutations` proves that each mistake it names breaks the limits in `LIMITS`.
"""

import copy
import json

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import bitsandbytes_cuda as bnb_cuda

TOKENS = 56  # a sequence; beyond the 32 positions at which the scaled rotary frequencies part from the plain ones
SEQUENCES = 2
GROUPS = 16  # residual channels that HOT tokens of the vocabulary light up each: outliers in certain rows only
HOT = 2
STEADY = 2  # channels that are outliers in every row
LIMITS = {"fp16": {"kl": 1e-4, "top1": 1.0}, "int8": {"kl": 1e-3, "top1": 0.995}, "nf4": {"kl": 1e-3, "top1": 0.995}}
ERROR_RATIO = 2.0  # max and RMS error against the fp32 reference, times Hugging Face's

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def llama_gqa_config():
    return transformers.LlamaConfig(
        vocab_size=256, hidden_size=192, intermediate_size=256, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=254,
        eos_token_id=[253, 255], tie_word_embeddings=True, rope_parameters=dict(LLAMA3_ROPE),
    )  # fmt: skip


def llama_untied_config():
    """heads * head_dim is not the hidden size, one key/value head, plain rotary embedding."""
    return transformers.LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, head_dim=48, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=254,
        eos_token_id=255, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip


def phi_config():
    return transformers.PhiConfig(
        vocab_size=256, hidden_size=160, intermediate_size=192, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=128, layer_norm_eps=1e-5, hidden_act="gelu_new", bos_token_id=255, eos_token_id=255,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    )  # fmt: skip


# name -> (configuration, seed, heavy, last_write, shards). heavy: how much more the MLP weighs a planted channel than
# another; last_write: what the last MLP adds to the stream, in the embedding's sigma. Chosen so that in int8 a mistake
# with the outliers more than doubles the error, while two correct implementations, whose roundings part ways after a
# few layers, stay below half of the permitted divergence.
MODELS = {
    "llama-gqa": (llama_gqa_config, 1, 28.0, 2.0, 1),
    "llama-untied": (llama_untied_config, 2, 18.0, 1.0, 3),
    "phi": (phi_config, 3, 32.0, 1.0, 1),
}


def quantised_linears(model):
    """The linears that transformers hands to bitsandbytes: all but the head."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}


def is_norm(module):
    return "Norm" in type(module).__name__


def redraw(model, heavy, g):
    """Draws every parameter anew, in fp32, and plants the outliers -> (planted channels, hot tokens by group)."""
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    uniform = lambda shape, low, high: torch.rand(shape, generator=g) * (high - low) + low
    normal = lambda shape, sigma: torch.randn(shape, generator=g) * sigma
    tied = model.config.tie_word_embeddings
    for module in model.modules():
        if is_norm(module):
            module.weight.data = uniform(module.weight.shape, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                module.bias.data = normal(module.bias.shape, 0.1)
        elif isinstance(module, nn.Linear):
            module.weight.data = normal(module.weight.shape, 1.0 / module.in_features**0.5)
            if module.bias is not None:
                module.bias.data = normal(module.bias.shape, 0.1)
    sigma = 2.6 / hidden**0.5  # a tied head then gives logits of about 3
    table = normal((vocab, hidden), sigma)
    channels = torch.randperm(hidden, generator=g)[: GROUPS + STEADY]
    groups = channels[:GROUPS]
    # A group's tokens put 12 sigma on its channel, all others nearly nothing. The MLP weighs these channels heavily, so
    # that what is nearly nothing counts: rounded to int8 (no more-than-one-row rule) it costs several times the error.
    # The gate's weights are negative there, so that a token that lights its channel shuts its own MLP instead of
    # flooding the stream.
    table[:, groups] *= 0.08
    hot = torch.randperm(vocab, generator=g)[: GROUPS * HOT].view(GROUPS, HOT)
    table[hot, groups[:, None]] = 12.0 * sigma * uniform((GROUPS, HOT), 0.95, 1.1)
    table[:, channels[GROUPS:]] = 14.0 * sigma
    for module in model.modules():
        if is_norm(module):
            module.weight.data[channels] = uniform((len(channels),), 1.35, 1.5)
    for name, module in model.named_modules():
        if name.endswith(("gate_proj", "up_proj", "fc1")):
            module.weight.data[:, groups] *= heavy
        if name.endswith(("gate_proj", "fc1")):
            module.weight.data[:, groups] = -module.weight.data[:, groups].abs()
    final_norm(model).weight.data[channels] = 0.5
    model.model.embed_tokens.weight.data = table
    if tied:
        model.tie_weights()
    return channels, hot


def final_norm(model):
    return model.model.norm if hasattr(model.model, "norm") else model.model.final_layernorm


def output_sigma(name):
    """What a linear's output is scaled to: attention scores with a spread of 2, a residual stream that grows slowly."""
    sigma = {"q_proj": 1.4, "k_proj": 1.4, "v_proj": 1.0, "gate_proj": 1.5, "up_proj": 1.0, "fc1": 1.5, "lm_head": 3.0}
    return sigma[name.split(".")[-1]]


def calibrate(model, last_write, ids, channels):
    """Scales each linear by its output on ids, in the order of the forward pass."""
    stream_sigma = model.model.embed_tokens.weight.data.abs().median() / 0.6745
    last_layer = f"layers.{model.config.num_hidden_layers - 1}."
    tied = model.config.tie_word_embeddings
    handles = []

    def hook(name):
        def scale(module, inputs, output):
            if tied and name == "lm_head":
                return output
            writes_residual = name.endswith(("o_proj", "down_proj", "dense", "fc2"))
            # The last layer outweighs the embedding; else a tied head would give every token itself back, and the
            # logits would not feel what the linears did.
            last = last_layer in name and name.endswith(("down_proj", "fc2"))
            residual_sigma = stream_sigma * (last_write if last else 0.3)
            target = residual_sigma if writes_residual else output_sigma(name)
            if writes_residual:  # the planted channels keep what the embedding put there
                module.weight.data[channels] *= 0.05
                if module.bias is not None:
                    module.bias.data *= residual_sigma
                    module.bias.data[channels] *= 0.05
            bare = nn.functional.linear(inputs[0], module.weight)
            spread = bare.abs().median() / 0.6745  # of the ordinary rows
            module.weight.data *= target / spread
            return nn.functional.linear(inputs[0], module.weight, module.bias)

        return scale

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(hook(name)))
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()


def plant_in_mlp(model, channels):
    """Makes one input of each layer's down (fc2) projection an outlier for the tokens that light group 0's channel."""
    hot = channels[0]
    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate_proj"):
            for linear, value in ((layer.mlp.gate_proj, 0.9), (layer.mlp.up_proj, 0.22)):
                linear.weight.data[5] *= 0.1
                linear.weight.data[5, hot] = value
        else:
            layer.mlp.fc1.weight.data[5] *= 0.1
            layer.mlp.fc1.weight.data[5, hot] = 1.2


def sequences(vocab, hot, g):
    """ids [SEQUENCES, TOKENS]: every group is lit by one token of each sequence, at a random place."""
    cold = torch.tensor(sorted(set(range(vocab)) - set(hot.view(-1).tolist())))
    ids = cold[torch.randint(0, len(cold), (SEQUENCES, TOKENS), generator=g)]
    for row in ids:
        row[torch.randperm(TOKENS, generator=g)[:GROUPS]] = hot[:, torch.randint(0, HOT, (1,), generator=g)].view(-1)
    return ids


def build(name):
    """-> the model in fp32 whose every parameter is an fp16 number, and ids [SEQUENCES, TOKENS]."""
    make_config, seed, heavy, last_write, _ = MODELS[name]
    g = torch.Generator().manual_seed(seed)
    config = make_config()
    model = (transformers.PhiForCausalLM if config.model_type == "phi" else transformers.LlamaForCausalLM)(config)
    model = model.float().eval()
    channels, hot = redraw(model, heavy, g)
    ids = sequences(config.vocab_size, hot, g)
    calibrate(model, last_write, ids, channels)
    plant_in_mlp(model, channels)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model, ids


class Int8Linear(nn.Module):
    def __init__(self, linear, threshold=bnb_cuda.THRESHOLD, column_rule=True):
        super().__init__()
        self.cb, self.scb = bnb_cuda.quantize_int8(linear.weight.data.half())
        self.bias = None if linear.bias is None else linear.bias.data.half()
        self.threshold, self.column_rule = threshold, column_rule

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        y = bnb_cuda.int8_linear(rows, self.cb, self.scb, self.bias, self.threshold, self.column_rule)[0]
        return y.view(*x.shape[:-1], -1)

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


def replace_linears(model, make):
    for name, linear in quantised_linears(model).items():
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
    half = copy.deepcopy(model).half()
    references = {
        "fp16": model,
        "int8": with_dequantised(model, Int8Linear),
        "nf4": with_dequantised(model, Nf4Linear),
    }
    hf = {
        "fp16": half,
        "int8": replace_linears(copy.deepcopy(half), Int8Linear),
        "nf4": replace_linears(copy.deepcopy(half), Nf4Linear),
    }
    return references, hf


@torch.no_grad()
def full(model, ids):
    """Each sequence in one forward of its own, [SEQUENCES, TOKENS, vocab]."""
    return torch.cat([model(row[None]).logits for row in ids])


@torch.no_grad()
def steps(model, ids):
    """Token by token with the cache: one row a linear."""
    out = []
    for row in ids:
        cache, logits = None, []
        for token in row:
            result = model(token.view(1, 1), past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            logits.append(result.logits[0, 0])
        out.append(torch.stack(logits))
    return torch.stack(out)


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


def mutations(model):
    """Mistakes, by mode: name -> a function that makes them in a copy of the fp16 model."""

    def each(select, change):
        def apply(m):
            hit = [change(module) for name, module in m.named_modules() if select(name, module)]
            assert hit, "the mutation found nothing to change"
            return m

        return apply

    named = lambda *ends: lambda name, module: name.endswith(ends)
    zero_bias = lambda module: module.bias.data.zero_()
    quantise = lambda **options: lambda m: replace_linears(m, lambda linear: Int8Linear(linear, **options))
    int8 = {"no more-than-one-row rule": quantise(column_rule=False), "no outlier path": quantise(threshold=0.0)}
    fp16 = {"norm weights of 1": each(lambda n, m: is_norm(m), lambda m: m.weight.data.fill_(1.0))}
    if model.config.model_type == "phi":
        for bias in ("q_proj", "v_proj", "dense", "fc1", "fc2", "lm_head", "input_layernorm", "final_layernorm"):
            fp16[f"no bias in {bias}"] = each(named(bias), zero_bias)
        # k's bias adds the same to every score of a query but for the rotation, so it is the hardest to see.
        fp16["no bias in k_proj"] = each(named("k_proj"), zero_bias)
        fp16["rotary on half of the head"] = lambda m: rebuilt(m, partial_rotary_factor=0.5)
        int8["no bias in fc2"] = lambda m: quantise()(fp16["no bias in fc2"](m))
    elif model.config.rope_parameters["rope_type"] == "llama3":
        fp16["no rope scaling"] = lambda m: rebuilt(m, rope_type="default")
        fp16["rope scaling without the blend"] = lambda m: rebuilt(m, high_freq_factor=1.0001)
    else:
        fp16["rope theta of 10000"] = lambda m: rebuilt(m, rope_theta=10000.0)
    nf4 = {k: (lambda m, f=f: replace_linears(f(m), Nf4Linear)) for k, f in fp16.items()}
    return {"fp16": fp16, "int8": int8, "nf4": nf4}


def rebuilt(model, **rope):
    """The same parameters under a configuration with other rotary settings."""
    config = copy.deepcopy(model.config)
    config.rope_parameters = {**config.rope_parameters, **rope}
    other = type(model)(config).half().eval()
    other.load_state_dict(model.state_dict())
    return other


def count_outliers(model, ids):
    """-> (layers with an outlier, linears with outliers in some rows only) in one forward of sequence 0."""
    layers, some_rows = set(), set()

    def hook(name):
        def look(module, inputs):
            outlier = inputs[0].float().abs().reshape(-1, inputs[0].shape[-1]) >= bnb_cuda.THRESHOLD
            if outlier.any():
                layers.add(name.split(".")[2])
            if bool((outlier.any(0) & ~outlier.all(0)).any()):
                some_rows.add(name)

        return look

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, Int8Linear)]
    full(model, ids[:1])
    for handle in handles:
        handle.remove()
    return len(layers), len(some_rows)


class OtherRounding(nn.Module):
    """A linear of the fp16 model in a stream kept in fp32: another implementation, and a correct one."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x.half()).float()


def prove(name, model, ids, references, hf):
    """Prints how near a correct implementation comes and how far each mistake is; raises where a golden cannot tell."""
    print(f"{name}: logits' sigma {float(full(model, ids).std(-1).mean()):.2f}")
    layers, some_rows = count_outliers(hf["int8"], ids)
    print(f"  outliers in {layers} layers, in some rows only in {some_rows} linears")
    assert layers >= 3 and some_rows >= 6, f"{name}: too few outliers were planted"
    wrong = []
    for mode, mistakes in mutations(model).items():
        golden = {run.__name__: run(hf[mode], ids) for run in (full, steps)}
        reference = full(references[mode], ids)
        error = (golden["full"].double() - reference.double()).abs()
        print(f"  {mode}: Hugging Face's error max {error.max():.3f}, rms {error.pow(2).mean().sqrt():.4f}")
        wrap = {"fp16": lambda m: m.half(), "int8": lambda m: Int8Linear(m), "nf4": lambda m: Nf4Linear(m)}[mode]
        other = replace_linears(copy.deepcopy(model), lambda linear: OtherRounding(wrap(linear)))
        for run in (full, steps):
            figures = compare(run(other, ids), golden[run.__name__], reference)
            print(f"    other rounding, {run.__name__}: {show(figures)}")
            wrong += [f"{mode}: a correct implementation breaks {b}" for b in broken(figures, mode)]
        for mistake, make in mistakes.items():
            figures = compare(full(make(copy.deepcopy(model).half()), ids), golden["full"], reference)
            limits = broken(figures, mode)
            print(f"    {mistake}: {show(figures)} breaks {', '.join(limits) or 'NOTHING'}")
            wrong += [] if limits else [f"{mode}: {mistake} goes unseen"]
    assert not wrong, f"{name}: " + "; ".join(wrong)


def published_config(folder):
    """Rewrites config.json in the form in which Llama-3.2 and Phi-2 were published, before rope_parameters."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_checkpoint(name, model, folder):
    shards = MODELS[name][-1]
    half = copy.deepcopy(model).half()
    size = sum(p.numel() * 2 for p in half.parameters())
    half.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards + 1)
    if shards == 1:
        published_config(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    kept = again.config.rope_parameters == model.config.rope_parameters
    assert kept, f"{folder}: config.json lost the rotary settings"
    for (key, a), b in zip(half.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), f"{folder}: {key} changed on the way to the file"


def save_prequantised(name, model, ids, source, out):
    """transformers' own 8-bit and 4-bit checkpoints; proves their bytes equal to the quantisation used here."""
    four = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
    kinds = {
        "int8": (dict(load_in_8bit=True), Int8Linear),
        "nf4": (dict(four, bnb_4bit_use_double_quant=True), Nf4Linear),
        "nf4-plain": (four, lambda linear: Nf4Linear(linear, nested=False)),
    }
    for kind, (options, make) in kinds.items():
        config = transformers.BitsAndBytesConfig(**options)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            source, quantization_config=config, dtype=torch.float16, device_map="cpu"
        ).eval()
        folder = out / f"{name}-{kind}"
        theirs.save_pretrained(folder)
        saved = load_file(folder / "model.safetensors")
        for linear_name, linear in quantised_linears(model).items():
            ours = make(linear)
            weight = ours.cb if kind == "int8" else ours.packed
            assert torch.equal(saved[f"{linear_name}.weight"], weight), f"{folder}: {linear_name}: codes differ"
            if kind != "int8":
                same = torch.equal(dequantize(saved, linear_name), ours.dequantised())
                assert same, f"{folder}: {linear_name}: dequantised weights differ"
        golden = full(replace_linears(copy.deepcopy(model).half(), make), ids)
        figures = compare(full(theirs, ids), golden, full(with_dequantised(model, make), ids))
        print(f"  {kind}: bitsandbytes' CPU path beside the arithmetic of CUDA: {show(figures)}")


def dequantize(saved, linear_name):
    prefix = f"{linear_name}."
    return bnb_cuda.dequantize_saved({k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}, "weight")


def write(out, made_by):
    """Writes every checkpoint and golden below the folder out."""
    transformers.logging.set_verbosity_error()
    for name in MODELS:
        model, ids = build(name)
        references, hf = variants(model)
        prove(name, model, ids, references, hf)
        save_checkpoint(name, model, out / name)
        tensors = {"ids": ids.int()}
        if name == "llama-gqa":
            save_prequantised(name, model, ids, out / name, out)
            plain = lambda linear: Nf4Linear(linear, nested=False)
            references["nf4-plain"] = with_dequantised(model, plain)
            hf["nf4-plain"] = replace_linears(copy.deepcopy(model).half(), plain)
        for mode in references:
            tensors[f"ref.{mode}"] = full(references[mode], ids)
            tensors[f"hf.{mode}.full"] = full(hf[mode], ids)
            tensors[f"hf.{mode}.steps"] = steps(hf[mode], ids)
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(tensors, out / f"{name}.golden.safetensors", {"made_by": made_by})
