"""Tiny T5 checkpoints that can fail, and their logits: the Flan-T5 form (gated gelu, own head) and the T5 1.0 form
(relu, tied head, scaled decoder output). What every parameter is drawn from and why: goldens_models.py.

`wo`, which transformers keeps in fp32 in every precision, gets weights near the smallest that fp16 holds, so that
rounding them shows; what they multiply is scaled up by as much.
"""

import json

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Attention

from goldens_common import (
    Int8Linear, Nf4Linear, clear_best, each, halved, is_norm, prove, quantise, quantised_linears, replace_linears, variants,
)  # fmt: skip

SEQUENCES = 2
HOT = 2  # tokens that light up each group of planted channels
STEADY = 1  # channels that are outliers in every row


class Form:

    """One checkpoint: its configuration and how it is drawn."""

    def __init__(self, seed, config, tied, encoder_tokens, decoder_tokens, rows, groups, stream, hot, steady, heavy, wide, spread, writes):
        self.seed, self.config, self.tied = seed, config, tied
        self.encoder_tokens, self.decoder_tokens = encoder_tokens, decoder_tokens
        self.rows = torch.tensor(rows)  # decoder positions whose logits are kept
        self.groups = groups  # channels that only hot tokens light up
        self.stream = stream  # sigma of the embedding
        self.hot, self.steady = hot, steady  # what planted channels hold, in the stream's sigma
        self.heavy = heavy  # how much more the encoder's and the decoder's feed-forward weigh a planted channel than another
        self.wide = wide  # sigma of what wo multiplies
        self.spread = spread  # of the scores of self- and of cross-attention
        self.writes = writes  # what self-attention, cross-attention, wo and a stack's last wo add to the stream, in its sigma


MODELS = {
    "t5": Form(
        seed=1,
        config=dict(
            vocab_size=192, d_model=64, d_kv=24, d_ff=136, num_heads=3, num_layers=2, num_decoder_layers=3,
            feed_forward_proj="gated-gelu",
        ),
        tied=False,
        # All buckets of the encoder occur from 92 tokens on, of the decoder from 114.
        encoder_tokens=150,
        decoder_tokens=136,
        rows=[0, 1, 2, 8, 19, 33, 50, 70, 90, 106, 114, 121, 129, 135],
        groups=8,
        stream=0.03,
        hot=18.0,
        steady=11.0,
        heavy=(40.0, 18.0),
        wide=500.0,
        spread=(2.0, 4.0),
        writes=(0.4, 0.7, 0.3, 0.7),
    ),
    "t5-relu-tied": Form(
        seed=2,
        config=dict(
            vocab_size=96, d_model=32, d_kv=8, d_ff=72, num_heads=2, num_layers=2, num_decoder_layers=1,
            relative_attention_num_buckets=16, relative_attention_max_distance=64, feed_forward_proj="relu",
        ),
        tied=True,
        encoder_tokens=40,
        decoder_tokens=24,
        rows=[0, 1, 2, 4, 6, 8, 11, 14, 17, 20, 22, 23],
        groups=4,
        stream=3.0,
        hot=16.0,
        steady=9.0,
        heavy=(80.0, 12.0),
        wide=50.0,
        spread=(2.0, 4.0),
        writes=(0.4, 1.0, 0.5, 1.5),
    ),
}  # fmt: skip


def make_model(form):
    shared = dict(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.1, tie_word_embeddings=form.tied)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**form.config, **shared)).float().eval()
    assert model.config.scale_decoder_outputs == form.tied
    if not form.tied:  # transformers 5 ties what it makes of a configuration, whatever that says
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def redraw(model, form, g):
    """Draws every parameter anew, in fp32, and plants the outliers -> (planted channels, hot tokens by group)."""
    uniform = lambda shape, low, high: torch.rand(shape, generator=g) * (high - low) + low
    normal = lambda shape, sigma: torch.randn(shape, generator=g) * sigma
    for name, module in model.named_modules():
        if is_norm(module):
            module.weight.data = uniform(module.weight.shape, 0.5, 1.5)
        elif name.endswith("relative_attention_bias"):
            module.weight.data = normal(module.weight.shape, 1.0)
        elif isinstance(module, nn.Linear) and not (form.tied and name == "lm_head"):
            module.weight.data = normal(module.weight.shape, module.in_features**-0.5)
    vocab, hidden = model.shared.weight.shape
    table = normal((vocab, hidden), form.stream)
    channels = torch.randperm(hidden, generator=g)[: form.groups + STEADY]
    groups = channels[: form.groups]
    # A group's tokens put 10 sigma on its channel, all others nearly nothing, which the feed-forward weighs heavily.
    table[:, groups] *= 0.08
    hot = 2 + torch.randperm(vocab - 2, generator=g)[: form.groups * HOT].view(form.groups, HOT)
    table[hot, groups[:, None]] = form.hot * form.stream * uniform((form.groups, HOT), 0.95, 1.1)
    table[:, channels[form.groups :]] = form.steady * form.stream
    for name, module in model.named_modules():
        if is_norm(module):
            module.weight.data[channels] = uniform((len(channels),), 1.35, 1.5)
        if name.endswith((".wi", ".wi_0", ".wi_1")):
            module.weight.data[:, groups] *= form.heavy[name.startswith("decoder")]
        if name.endswith((".wi", ".wi_0")):  # negative: a token that lights its channel shuts its own feed-forward
            module.weight.data[:, groups] = -module.weight.data[:, groups].abs()
    model.decoder.final_layer_norm.weight.data[channels] = 0.5
    model.shared.weight.data.copy_(table)
    return channels, hot


def calibrate(model, form, batch, channels):
    """Scales each linear by its output on the batch, in the order of the forward pass."""
    sigma = {"v": 1.0, "wi": form.wide, "wi_0": 1.5, "wi_1": form.wide, "lm_head": 3.0}
    last = {f"{stack}.block.{len(getattr(model, stack).block) - 1}." for stack in ("encoder", "decoder")}
    handles = []

    def hook(name):
        kind = name.split(".")[-1]

        def scale(module, inputs, output):
            if form.tied and kind == "lm_head":
                return output
            if kind in ("o", "wo"):
                cross, is_last = ".EncDecAttention." in name, name.startswith(tuple(last))
                target = form.stream * form.writes[2 + is_last if kind == "wo" else cross]
                module.weight.data[channels] *= 0.05  # the planted channels keep what the embedding put there
            elif kind in ("q", "k"):  # T5 does not scale their product
                target = (form.spread[".EncDecAttention." in name] / model.config.d_kv**0.5) ** 0.5
            else:
                target = sigma[kind]
            output = nn.functional.linear(inputs[0], module.weight)
            factor = target * 0.6745 / output.abs().median()  # of the ordinary rows
            module.weight.data *= factor
            return output * factor

        return scale

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(hook(name)))
    with torch.no_grad():
        model(input_ids=batch["encoder_ids"], decoder_input_ids=batch["decoder_ids"])
    for handle in handles:
        handle.remove()


def sequences(form, hot, tokens, g):
    """ids [SEQUENCES, tokens]: every group is lit by one token of each sequence, at a random place."""
    cold = torch.tensor(sorted(set(range(2, form.config["vocab_size"])) - set(hot.view(-1).tolist())))
    ids = cold[torch.randint(0, len(cold), (SEQUENCES, tokens), generator=g)]
    for row in ids:
        row[1 + torch.randperm(tokens - 2, generator=g)[: form.groups]] = hot[:, torch.randint(0, HOT, (1,), generator=g)].view(-1)
    return ids


def build(form):
    """-> the model in fp32 whose every parameter but wo's is an fp16 number, and ids of encoder and decoder."""
    g = torch.Generator().manual_seed(form.seed)
    model = make_model(form)
    channels, hot = redraw(model, form, g)
    batch = {"encoder_ids": sequences(form, hot, form.encoder_tokens, g), "decoder_ids": sequences(form, hot, form.decoder_tokens, g)}
    batch["encoder_ids"][:, -1] = 1  # </s>
    batch["decoder_ids"][:, 0] = 0  # decoder_start_token_id
    calibrate(model, form, batch, channels)
    for name, parameter in model.named_parameters():
        if not name.endswith(".wo.weight"):
            parameter.data = parameter.data.half().float()
    return model, batch


@torch.no_grad()
def full(model, batch):
    """The encoder's rows in one forward, the decoder's in another; each sequence on its own -> [.., tokens, vocab]."""
    pairs = zip(batch["encoder_ids"], batch["decoder_ids"])
    return torch.cat([model(input_ids=e[None], decoder_input_ids=d[None], use_cache=False).logits for e, d in pairs])


@torch.no_grad()
def steps(model, batch):
    """The encoder's rows in one forward, then the decoder token by token with the cache: one row a linear."""
    out = []
    for encoder_ids, decoder_ids in zip(batch["encoder_ids"], batch["decoder_ids"]):
        encoded = BaseModelOutput(last_hidden_state=model.encoder(input_ids=encoder_ids[None]).last_hidden_state)
        cache, logits = None, []
        for token in decoder_ids:
            result = model(encoder_outputs=encoded, decoder_input_ids=token.view(1, 1), past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            logits.append(result.logits[0, 0])
        out.append(torch.stack(logits))
    return torch.stack(out)


def self_attention(model, stack, block=0):
    return getattr(model, stack).block[block].layer[0].SelfAttention


def other_buckets(change):
    """A mistake in the buckets of both stacks: change(right function, relative positions, options) -> buckets."""

    def apply(m):
        for stack in ("encoder", "decoder"):
            right = T5Attention._relative_position_bucket
            self_attention(m, stack)._relative_position_bucket = lambda r, **options: change(right, r, options)
        return m

    return apply


def bias_in_first_block_only(m):
    for stack in ("encoder", "decoder"):
        for block in getattr(m, stack).block[1:]:
            layer = block.layer[0]
            right = layer.forward
            layer.forward = lambda h, position_bias=None, right=right, **kw: right(h, position_bias=position_bias * 0, **kw)
    return m


def mutations(model, form):
    """Mistakes, by mode: name -> a function that makes them in a copy of the fp16 model."""

    def set_attention(stacks, **values):
        def apply(m):
            for stack in stacks:
                for module in getattr(m, stack).modules():
                    if isinstance(module, T5Attention):
                        vars(module).update(values)
            return m

        return apply

    def scale_outputs(m):
        m.config.scale_decoder_outputs = not form.tied
        return m

    def late_boundary(right, r, options):  # a bucket begins one position late where the logarithm is exact
        exact = options["num_buckets"] // (4 if options["bidirectional"] else 2)
        late = sum(r.abs() == exact << i for i in (1, 2, 3))
        return right(torch.where(late.bool(), r - r.sign(), r), **options)

    named = lambda *ends: lambda name, module: name.endswith(ends)
    no_bias = lambda stack: lambda m: self_attention(m, stack).relative_attention_bias.weight.data.zero_() is None or m
    rounded = each(named(".wo"), lambda w: w.weight.data.copy_(w.weight.data.half().float()))
    fp16 = {
        "norm weights of 1": each(lambda n, m: is_norm(m), lambda m: m.weight.data.fill_(1.0)),
        "no relative bias in the encoder": no_bias("encoder"),
        "no relative bias in the decoder": no_bias("decoder"),
        "relative bias in the first block only": bias_in_first_block_only,
        "the decoder's buckets in both directions": set_attention(["decoder"], is_decoder=False),
        "the encoder's buckets in one direction": set_attention(["encoder"], is_decoder=True),
        "a bucket begins one position late": other_buckets(late_boundary),
        "twice the largest distance": other_buckets(
            lambda right, r, options: right(r, **{**options, "max_distance": 2 * options["max_distance"]})
        ),
        "scores divided by the root of d_kv": set_attention(["encoder", "decoder"], scaling=model.config.d_kv**-0.5),
        ("decoder output not scaled" if form.tied else "decoder output scaled"): scale_outputs,
    }
    if not form.tied:  # the tied form is too short for the last bucket, and its stream too wide for the others
        fp16["the last bucket missing"] = other_buckets(
            lambda right, r, options: right(r, **options).clamp(max=options["num_buckets"] - 2)
        )
        fp16["epsilon of 1e-5"] = each(lambda n, m: is_norm(m), lambda m: vars(m).update(variance_epsilon=1e-5))
        fp16["wo rounded to fp16"] = rounded
    nf4 = {k: (lambda m, f=f: replace_linears(f(m), Nf4Linear)) for k, f in fp16.items()}
    quantised = each(named(".wo"), lambda w: setattr(w.weight, "data", Nf4Linear(w).weight16))
    nf4["wo quantised too"] = lambda m: quantised(replace_linears(m, Nf4Linear))
    chunk = 64 if form.encoder_tokens > 64 else 16
    of_encoder = lambda name: name.startswith("encoder") or name.endswith((".EncDecAttention.k", ".EncDecAttention.v"))
    in_encoder = lambda **options: lambda m: quantise()(
        replace_linears(m, lambda w: Int8Linear(w, **options), of_encoder)
    )
    int8 = {
        "no more-than-one-row rule": quantise(column_rule=False),
        "no more-than-one-row rule for the encoder's rows": in_encoder(column_rule=False),
        f"encoder's rows in chunks of {chunk}": in_encoder(chunk=chunk),
        "no outlier path": quantise(threshold=0.0),
        "no relative bias in the decoder": lambda m: quantise()(no_bias("decoder")(m)),
    }
    return {"fp16": fp16, "int8": int8, "nf4": nf4}


def published_config(folder, form):
    """Rewrites config.json in the form in which Flan-T5 and T5 1.0 were published, which leave out what is a default."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "dtype", "classifier_dropout", "is_decoder"):
        config.pop(key, None)
    config["tie_word_embeddings"] = form.tied
    if form.tied:
        del config["tie_word_embeddings"], config["feed_forward_proj"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_checkpoint(model, form, folder):
    """Saves it in fp16, wo in fp32, and proves that transformers reads back what the goldens are made of."""
    half = halved(model)
    half.save_pretrained(folder)
    published_config(folder, form)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float16)
    assert again.config.scale_decoder_outputs == form.tied
    for (key, a), b in zip(half.state_dict().items(), again.state_dict().values()):
        assert a.dtype == b.dtype and torch.equal(a, b), f"{folder}: {key} changed on the way to the file"
    four = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
    for options in (dict(load_in_8bit=True), four):
        quantized = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float16, device_map="cpu", quantization_config=transformers.BitsAndBytesConfig(**options)
        )
        theirs = {n for n, m in quantized.named_modules() if type(m).__name__ in ("Linear8bitLt", "Linear4bit")}
        assert theirs == set(quantised_linears(model)), f"{folder}: bitsandbytes quantises other linears"
        wo = quantized.decoder.block[0].layer[2].DenseReluDense.wo.weight
        assert torch.equal(wo, model.decoder.block[0].layer[2].DenseReluDense.wo.weight), f"{folder}: wo was rounded"


@torch.no_grad()
def hidden_states(model, form, batch):
    """The fp32 residual streams of sequence 0 behind each block, [rows, d_model], and what the final norms make of them."""
    out, encoder_rows = {}, torch.linspace(0, form.encoder_tokens - 1, 6).long()
    handles = []
    for stack, rows in (("encoder", encoder_rows), ("decoder", form.rows)):
        keep = lambda key, rows: lambda m, i, o: out.update({key: (o[0] if isinstance(o, tuple) else o)[0, rows].clone()})
        for i, block in enumerate(getattr(model, stack).block):
            handles.append(block.register_forward_hook(keep(f"hidden.{stack}.{i}", rows)))
        handles.append(getattr(model, stack).final_layer_norm.register_forward_hook(keep(f"hidden.{stack}.final", rows)))
    full(model, {key: ids[:1] for key, ids in batch.items()})
    for handle in handles:
        handle.remove()
    return {"hidden.encoder_rows": encoder_rows.int(), **out}


def write(out, made_by):
    """Writes every checkpoint and golden below the folder out."""
    transformers.logging.set_verbosity_error()
    for name, form in MODELS.items():
        model, batch = build(form)
        references, hf = variants(model)
        runs = {"full": lambda m: full(m, batch)[:, form.rows], "steps": lambda m: steps(m, batch)[:, form.rows]}
        prove(name, model, runs, references, hf, mutations(model, form), own_steps=["int8"])
        save_checkpoint(model, form, out / name)
        tensors = {key: ids.int() for key, ids in batch.items()}
        tensors["rows"] = form.rows.int()
        for mode in references:
            reference, theirs = full(references[mode], batch), [run(hf[mode], batch) for run in (full, steps)]
            tensors[f"ref.{mode}"] = reference[:, form.rows]
            tensors[f"hf.{mode}.full"] = theirs[0][:, form.rows]
            if mode == "int8":  # elsewhere one row a linear gives no other numbers than many
                tensors[f"hf.{mode}.steps"] = theirs[1][:, form.rows]
            tensors[f"next.{mode}"] = clear_best(theirs, reference)
        tensors.update(hidden_states(model, form, batch))
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(tensors, out / f"{name}.golden.safetensors", {"made_by": made_by})
