"""Tiny Llama, Phi and Qwen2 checkpoints that can fail, and their logits from transformers and bitsandbytes.

Every parameter is redrawn, since transformers' initialisation (zero biases, unit norms, rare outliers) lets mistakes
pass; activations of at least 6.0 are planted so that LLM.int8's outlier path and its more-than-one-row rule decide
results; and each mistake of `mutations` is proved to break the limits (goldens_common.py).
"""

import copy
import dataclasses
import json
from collections.abc import Callable

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from goldens_common import (
    Int8Linear, Nf4Linear, compare, dequantize, each, is_norm, prove, quantise, quantised_linears, replace_linears, show,
    variants, with_dequantised, zero_bias,
)  # fmt: skip

TOKENS = 56  # a sequence; beyond the 32 positions at which the scaled rotary frequencies part from the plain ones
SEQUENCES = 2
HOT = 2  # tokens of the vocabulary that light up each group of planted channels

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


def qwen2_config():
    """Three query heads to a key/value head, heads of 12; an intermediate size that is no multiple of 64, so that blocks
    of NF4 straddle rows."""
    return transformers.Qwen2Config(
        vocab_size=256, hidden_size=72, intermediate_size=88, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-6, bos_token_id=254, eos_token_id=255,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )  # fmt: skip


@dataclasses.dataclass
class Form:
    """One checkpoint: its configuration and how it is drawn. heavy and last_write are chosen so that in int8 a mistake
    with the outliers more than doubles the error, while two correct implementations, whose roundings part ways after a
    few layers, stay below half of the permitted divergence."""

    model: type
    config: Callable
    seed: int
    heavy: float  # how much more the MLP weighs a planted channel than another
    last_write: float  # what the last MLP adds to the stream, in the embedding's sigma
    shards: int = 1
    groups: int = 16  # residual channels that HOT tokens light up each: outliers in certain rows only
    steady: int = 2  # channels that are outliers in every row
    lit: tuple = (12.0, 14.0)  # what hot tokens put on their channel and all on the steady ones, in the embedding's sigma
    bias: float = 0.1  # sigma of the linears' biases
    rows: tuple = ()  # positions whose logits are kept, those of single steps in int8 alone; (): all


MODELS = {
    "llama-gqa": Form(transformers.LlamaForCausalLM, llama_gqa_config, 1, 28.0, 2.0),
    "llama-untied": Form(transformers.LlamaForCausalLM, llama_untied_config, 2, 18.0, 1.0, shards=3),
    "phi": Form(transformers.PhiForCausalLM, phi_config, 3, 32.0, 1.0),
    "qwen2": Form(
        transformers.Qwen2ForCausalLM, qwen2_config, 4, 28.0, 2.0, groups=8, steady=1, lit=(18.0, 11.0), bias=0.5,
        rows=(0, 1, 5, 14, 25, 36, 47, 55),
    ),
}  # fmt: skip


def redraw(model, form, g):
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
                module.bias.data = normal(module.bias.shape, form.bias)
    sigma = 2.6 / hidden**0.5  # a tied head then gives logits of about 3
    table = normal((vocab, hidden), sigma)
    channels = torch.randperm(hidden, generator=g)[: form.groups + form.steady]
    groups = channels[: form.groups]
    # A group's tokens put many sigma on its channel, all others nearly nothing. The MLP weighs these channels heavily, so
    # that what is nearly nothing counts: rounded to int8 (no more-than-one-row rule) it costs several times the error.
    # The gate's weights are negative there, so that a token that lights its channel shuts its own MLP instead of
    # flooding the stream.
    table[:, groups] *= 0.08
    hot = torch.randperm(vocab, generator=g)[: form.groups * HOT].view(form.groups, HOT)
    table[hot, groups[:, None]] = form.lit[0] * sigma * uniform((form.groups, HOT), 0.95, 1.1)
    table[:, channels[form.groups :]] = form.lit[1] * sigma
    for module in model.modules():
        if is_norm(module):
            module.weight.data[channels] = uniform((len(channels),), 1.35, 1.5)
    for name, module in model.named_modules():
        if name.endswith(("gate_proj", "up_proj", "fc1")):
            module.weight.data[:, groups] *= form.heavy
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
        row[torch.randperm(TOKENS, generator=g)[: len(hot)]] = hot[:, torch.randint(0, HOT, (1,), generator=g)].view(-1)
    return ids


def build(name):
    """-> the model in fp32 whose every parameter is an fp16 number, and ids [SEQUENCES, TOKENS]."""
    form = MODELS[name]
    g = torch.Generator().manual_seed(form.seed)
    model = form.model(form.config()).float().eval()
    channels, hot = redraw(model, form, g)
    ids = sequences(model.config.vocab_size, hot, g)
    calibrate(model, form.last_write, ids, channels)
    plant_in_mlp(model, channels)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model, ids


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


def mutations(model):
    """Mistakes, by mode: name -> a function that makes them in a copy of the fp16 model."""
    named = lambda *ends: lambda name, module: name.endswith(ends)
    int8 = {"no more-than-one-row rule": quantise(column_rule=False), "no outlier path": quantise(threshold=0.0)}
    fp16 = {"norm weights of 1": each(lambda n, m: is_norm(m), lambda m: m.weight.data.fill_(1.0))}
    if model.config.model_type == "phi":
        for bias in ("q_proj", "v_proj", "dense", "fc1", "fc2", "lm_head", "input_layernorm", "final_layernorm"):
            fp16[f"no bias in {bias}"] = each(named(bias), zero_bias)
        # k's bias adds the same to every score of a query but for the rotation, so it is the hardest to see.
        fp16["no bias in k_proj"] = each(named("k_proj"), zero_bias)
        fp16["rotary on half of the head"] = lambda m: rebuilt(m, partial_rotary_factor=0.5)
        int8["no bias in fc2"] = lambda m: quantise()(fp16["no bias in fc2"](m))
    elif model.config.model_type == "qwen2":
        for bias in ("q_proj", "k_proj", "v_proj"):
            fp16[f"no bias in {bias}"] = each(named(bias), zero_bias)
        int8["no bias in q_proj"] = lambda m: quantise()(fp16["no bias in q_proj"](m))
        int8["no bias in k_proj"] = lambda m: quantise()(fp16["no bias in k_proj"](m))
        fp16["rope theta of 10000"] = lambda m: rebuilt(m, rope_theta=10000.0)
        fp16["epsilon of 1e-2"] = each(lambda n, m: is_norm(m), lambda m: vars(m).update(variance_epsilon=1e-2))
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


def published_config(folder):
    """Rewrites config.json in the form in which Llama-3.2, Phi-2 and Qwen2.5 were published, before rope_parameters."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] == "qwen2":  # names a window of every layer that is not used, here shorter than a sequence
        del config["layer_types"]
        config.update(use_sliding_window=False, sliding_window=TOKENS // 4, max_window_layers=0)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_checkpoint(name, model, folder):
    shards = MODELS[name].shards
    half = copy.deepcopy(model).half()
    size = sum(p.numel() * 2 for p in half.parameters())
    half.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards + 1)
    if shards == 1:
        published_config(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    for key in ("rope_parameters", "layer_types"):
        kept = getattr(again.config, key, None) == getattr(model.config, key, None)
        assert kept, f"{folder}: config.json changed what {key} are"
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


def write(out, made_by):
    """Writes every checkpoint and golden below the folder out."""
    transformers.logging.set_verbosity_error()
    for name in MODELS:
        model, ids = build(name)
        references, hf = variants(model)
        rows = list(MODELS[name].rows or range(TOKENS))
        runs = {"full": lambda m: full(m, ids)[:, rows], "steps": lambda m: steps(m, ids)[:, rows]}
        # Elsewhere one row a linear gives no other numbers than many, so where little is to be kept they are left out.
        own_steps = ("int8",) if MODELS[name].rows else ("fp16", "int8", "nf4", "nf4-plain")
        prove(name, model, runs, references, hf, mutations(model), own_steps)
        save_checkpoint(name, model, out / name)
        tensors = {"ids": ids.int()}
        if name == "llama-gqa":
            save_prequantised(name, model, ids, out / name, out)
            plain = lambda linear: Nf4Linear(linear, nested=False)
            references["nf4-plain"] = with_dequantised(model, plain)
            hf["nf4-plain"] = replace_linears(copy.deepcopy(model).half(), plain)
        if MODELS[name].rows:
            tensors["rows"] = torch.tensor(rows).int()
        for mode in references:
            tensors[f"ref.{mode}"] = runs["full"](references[mode])
            tensors[f"hf.{mode}.full"] = runs["full"](hf[mode])
            if mode in own_steps:
                tensors[f"hf.{mode}.steps"] = runs["steps"](hf[mode])
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(tensors, out / f"{name}.golden.safetensors", {"made_by": made_by})
