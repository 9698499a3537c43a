"""A tiny PaliGemma checkpoint that can fail, and its logits: SigLIP's vision tower, the projector and Gemma. What every
parameter is drawn from and why: goldens_models.py.

What transformers 5.17 does, as its goldens show: the projector's output replaces the embeddings at image tokens as it
is, while text embeddings are multiplied by the root of the hidden size in the model's type; positions begin at 1; the
prefix (token_type_ids 0) attends to all of itself, what follows to all before it.
"""

import copy
import json
import math

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from goldens_common import (
    ERROR_RATIO, Int8Linear, Nf4Linear, OtherRounding, clear_best, compare, each, halved, is_norm, prove, quantise,
    quantised_linears, replace_linears, variants, zero_bias,
)  # fmt: skip

SEED = 1
SEQUENCES = 2
IMAGE, PATCH = 56, 14
IMAGE_TOKENS = (IMAGE // PATCH) ** 2
IMAGE_TOKEN, VOCAB, PADDED_VOCAB = 160, 160, 192  # the image token is the first id behind the tokenizer's
BOS, NEWLINE = 2, 108
TEXT, CONTINUATION = 10, 28
PREFIX = IMAGE_TOKENS + 1 + TEXT + 1
ROWS = [PREFIX - 1 + i for i in (0, 1, 2, 4, 6, 9, 12, 15, 18, 21, 24, 27)]  # positions whose logits are kept
HIDDEN_ROWS = [0, IMAGE_TOKENS - 1, IMAGE_TOKENS, PREFIX - 3, *ROWS[:4], ROWS[-1]]

HOT = 2  # tokens that light up each group of planted channels
GROUPS, STEADY = 6, 1  # of the text: channels lit by hot tokens, channels lit in every row
VISION_GROUPS, VISION_STEADY = 4, 1  # of the vision tower, where single patches light them
HOT_SIGMA, STEADY_SIGMA = 18.0, 11.0  # what planted channels hold, in the stream's sigma
HEAVY, VISION_HEAVY = 18.0, 130.0  # how much more the MLP weighs a planted channel than another
VISION_STREAM = 1.0  # sigma of the patches' embeddings
SPREAD = 2.0  # of the text's attention scores
# What attention and MLP add to the stream, in its sigma, and the last MLP.
WRITES, VISION_WRITES = (0.7, 0.3, 1.0), (0.5, 1.0, 2.0)
BIAS, VISION_BIAS, VISION_QUERY_BIAS = 0.1, 0.3, 0.6  # the tower's drown in what comes after unless they are larger


def make_model():
    vision = dict(
        model_type="siglip_vision_model", hidden_size=48, num_attention_heads=2, intermediate_size=140,
        num_hidden_layers=2, patch_size=PATCH, image_size=IMAGE, vision_use_head=False,
    )  # fmt: skip
    text = dict(
        model_type="gemma", hidden_size=64, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
        intermediate_size=160, num_hidden_layers=3, vocab_size=PADDED_VOCAB,
    )  # fmt: skip
    config = transformers.PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, vocab_size=VOCAB, projection_dim=64,
        hidden_size=64, pad_token_id=0, eos_token_id=1, bos_token_id=BOS,
    )  # fmt: skip
    return transformers.PaliGemmaForConditionalGeneration(config).float().eval()


def is_vision(name):
    return name.startswith("model.vision_tower")


def redraw(model, g):
    """Draws every parameter anew, in fp32, and plants the outliers -> (channels of text and vision, hot tokens by group)."""
    uniform = lambda shape, low, high: torch.rand(shape, generator=g) * (high - low) + low
    normal = lambda shape, sigma: torch.randn(shape, generator=g) * sigma
    for name, module in model.named_modules():
        if is_norm(module):
            low = 0.5 if is_vision(name) else -0.5  # Gemma adds 1
            module.weight.data = uniform(module.weight.shape, low, low + 1.0)
        elif isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = normal(module.weight.shape, module.in_features**-0.5)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = normal(module.weight.shape, module.weight[0].numel() ** -0.5)
        if getattr(module, "bias", None) is not None:
            of_vision = VISION_QUERY_BIAS if name.endswith("q_proj") else VISION_BIAS
            module.bias.data = normal(module.bias.shape, of_vision if is_vision(name) else BIAS)
    vision, text = model.model.vision_tower, model.model.language_model
    hidden = text.config.hidden_size
    sigma = 3.0 / hidden**0.5  # the tied head then gives logits of about 3
    table = normal((PADDED_VOCAB, hidden), sigma)
    channels = torch.randperm(hidden, generator=g)[: GROUPS + STEADY]
    groups, steady = channels[:GROUPS], channels[GROUPS:]
    table[:, groups] *= 0.08
    # Ids 0 to 2 are special, and so is the newline.
    free = torch.tensor([i for i in range(3, VOCAB) if i != NEWLINE])
    hot = free[torch.randperm(len(free), generator=g)[: GROUPS * HOT]].view(GROUPS, HOT)
    table[hot, groups[:, None]] = HOT_SIGMA * sigma * uniform((GROUPS, HOT), 0.95, 1.1)
    table[:, steady] = STEADY_SIGMA * sigma
    text.embed_tokens.weight.data.copy_(table)

    embeddings = vision.embeddings
    positions = normal(embeddings.position_embedding.weight.shape, 0.5 * VISION_STREAM)
    seen = torch.randperm(vision.config.hidden_size, generator=g)[: VISION_GROUPS + VISION_STEADY]
    seen_groups, seen_steady = seen[:VISION_GROUPS], seen[VISION_GROUPS:]
    positions[:, seen_groups] *= 0.08
    lit = torch.randperm(IMAGE_TOKENS, generator=g)[:VISION_GROUPS]
    positions[lit, seen_groups] = HOT_SIGMA * VISION_STREAM
    positions[:, seen_steady] = STEADY_SIGMA * VISION_STREAM
    embeddings.position_embedding.weight.data = positions

    for name, module in model.named_modules():
        if is_norm(module):
            own, low = (seen, 1.35) if is_vision(name) else (channels, 0.35)
            module.weight.data[own] = uniform((len(own),), low, low + 0.15)
        if name.endswith(("gate_proj", "up_proj", "fc1")):
            own, heavy = (seen_groups, VISION_HEAVY) if is_vision(name) else (groups, HEAVY)
            module.weight.data[:, own] *= heavy
            if not name.endswith("up_proj"):  # a row that lights its channel shuts its own MLP
                module.weight.data[:, own] = -module.weight.data[:, own].abs()
    text.norm.weight.data[channels] = -0.5
    vision.post_layernorm.weight.data[seen] = 0.5
    # Rows of the image: nearly nothing in the groups' channels, and the steady one as in every row.
    projector = model.model.multi_modal_projector.linear
    stream = sigma * hidden**0.5
    projector.bias.data *= stream
    projector.bias.data[groups] *= 0.05
    projector.bias.data[steady] = STEADY_SIGMA * stream
    return channels, seen, hot, stream


def calibrate(model, batch, channels, seen, stream):
    """Scales each linear by its output on the batch, in the order of the forward pass."""
    sigma = {"v_proj": 1.0, "gate_proj": 1.5, "up_proj": 1.0, "fc1": 1.5}
    last = f"layers.{model.config.text_config.num_hidden_layers - 1}.mlp.down_proj"
    handles = []

    def hook(name):
        kind = name.split(".")[-1]

        def scale(module, inputs, output):
            if kind == "lm_head":
                return output
            own, unit, writes = (seen, VISION_STREAM, VISION_WRITES) if is_vision(name) else (channels, stream, WRITES)
            if kind in ("o_proj", "out_proj", "down_proj", "fc2"):  # the planted channels keep what is in the stream
                is_last, is_mlp = name.endswith((last, "layers.1.mlp.fc2")), ".mlp." in name
                target = unit * writes[is_last + is_mlp]
                module.weight.data[own] *= 0.05
                if module.bias is not None:
                    module.bias.data *= target
                    module.bias.data[own] *= 0.05
            elif kind in ("linear", "patch_embedding"):
                target = unit
                module.weight.data[channels if kind == "linear" else own] *= 0.05
                if kind == "patch_embedding":
                    module.bias.data[own] *= 0.05
            elif kind in ("q_proj", "k_proj"):
                target = (2.0 if is_vision(name) else SPREAD) ** 0.5
            else:
                target = sigma[kind]
            bias, module.bias = module.bias, None
            module.weight.data *= target * 0.6745 / module.forward(inputs[0]).abs().median()  # of the ordinary rows
            module.bias = bias
            return module.forward(inputs[0])

        return scale

    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            handles.append(module.register_forward_hook(hook(name)))
    with torch.no_grad():
        ids = batch["ids"]
        types = (torch.arange(ids.shape[1]) >= PREFIX).long().expand_as(ids)
        model(input_ids=ids, pixel_values=pixel_values(batch["pictures"]), token_type_ids=types)
    for handle in handles:
        handle.remove()


def plant_in_mlp(model, channels, seen):
    """Makes one input of each layer's down (fc2) projection an outlier for the rows that light the first group."""
    for layer in model.model.language_model.layers:
        for linear, value in ((layer.mlp.gate_proj, 0.9), (layer.mlp.up_proj, 0.22)):
            linear.weight.data[5] *= 0.1
            linear.weight.data[5, channels[0]] = value
    for layer in model.model.vision_tower.encoder.layers:
        layer.mlp.fc1.weight.data[5] *= 0.1
        layer.mlp.fc1.weight.data[5, seen[0]] = 1.2


def pixel_values(pictures):
    """What the image processor makes of pictures uint8 [.., height, width, 3]: fp32 [.., 3, height, width] in [-1, 1]."""
    return ((pictures.float() * (1 / 255) - 0.5) / 0.5).movedim(-1, -3)


def sequences(hot, g):
    """ids [SEQUENCES, PREFIX + CONTINUATION]: every group is lit once in the prefix and once behind it."""
    free = torch.tensor(sorted(set(range(3, VOCAB)) - {NEWLINE} - set(hot.view(-1).tolist())))

    def text(tokens):
        ids = free[torch.randint(0, len(free), (tokens,), generator=g)]
        at = torch.randperm(tokens, generator=g)[:GROUPS]
        ids[at] = hot[torch.arange(GROUPS), torch.randint(0, HOT, (GROUPS,), generator=g)]
        return ids

    image = torch.full((IMAGE_TOKENS,), IMAGE_TOKEN)
    rows = [torch.cat([image, torch.tensor([BOS]), text(TEXT), torch.tensor([NEWLINE]), text(CONTINUATION)]) for _ in range(SEQUENCES)]
    return torch.stack(rows)


def build():
    """-> the model in fp32 whose every parameter is an fp16 number, and the batch: ids, and pictures uint8 NHWC."""
    g = torch.Generator().manual_seed(SEED)
    model = make_model()
    channels, seen, hot, stream = redraw(model, g)
    pictures = torch.randint(0, 256, (SEQUENCES, IMAGE, IMAGE, 3), generator=g).to(torch.uint8)
    batch = {"ids": sequences(hot, g), "pictures": pictures}
    calibrate(model, batch, channels, seen, stream)
    plant_in_mlp(model, channels, seen)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model, batch


def prefill(model, ids, picture):
    """-> the output of the prefix in one forward, with its cache."""
    prefix = ids[None, :PREFIX]
    pixels = pixel_values(picture[None]).to(model.dtype)
    return model(input_ids=prefix, pixel_values=pixels, token_type_ids=torch.zeros_like(prefix), use_cache=True)


@torch.no_grad()
def full(model, batch):
    """The prefix in one forward, what follows in another: the logits of ROWS, [SEQUENCES, rows, vocab]."""
    out = []
    for ids, picture in zip(batch["ids"], batch["pictures"]):
        first = prefill(model, ids, picture)
        rest = model(input_ids=ids[None, PREFIX:], past_key_values=first.past_key_values, use_cache=True)
        out.append(torch.cat([first.logits[0, -1:], rest.logits[0]]))
    return torch.stack(out)


@torch.no_grad()
def steps(model, batch):
    """The prefix in one forward, what follows token by token: one row a linear."""
    out = []
    for ids, picture in zip(batch["ids"], batch["pictures"]):
        result = prefill(model, ids, picture)
        logits = [result.logits[0, -1]]
        for token in ids[PREFIX:]:
            result = model(input_ids=token.view(1, 1), past_key_values=result.past_key_values, use_cache=True)
            logits.append(result.logits[0, 0])
        out.append(torch.stack(logits))
    return torch.stack(out)


@torch.no_grad()
def image_features(model, batch):
    """The projector's output, each picture in a forward of its own, [SEQUENCES, IMAGE_TOKENS, hidden]."""
    one = lambda p: model.model.get_image_features(pixel_values(p[None]).to(model.dtype)).pooler_output
    return torch.cat([one(picture) for picture in batch["pictures"]])


def mutations(model):
    """Mistakes, by mode: name -> a function that makes them in a copy of the fp16 model."""
    named = lambda *ends: lambda name, module: name.endswith(ends)

    def called(change):
        """A mistake in the arguments of the model's calls: change(arguments) changes them, by name."""

        def apply(m):
            right = m.forward

            def forward(**arguments):
                change(arguments)
                return right(**arguments)

            m.forward = forward
            return m

        return apply

    def of_prefix(change):
        return called(lambda a: a.update(change(a)) if a.get("past_key_values") is None else None)

    def of_rest(change):
        return called(lambda a: a.update(change(a)) if a.get("past_key_values") is not None else None)

    def blocks_transposed(a):  # patches taken column by column
        patch = model.config.vision_config.patch_size
        side = a["pixel_values"].shape[-1] // patch
        p = a["pixel_values"].view(-1, 3, side, patch, side, patch)
        return {"pixel_values": p.transpose(2, 4).reshape(a["pixel_values"].shape)}

    def moved(by):
        def change(a):
            past, count = a["past_key_values"].get_seq_length(), a["input_ids"].shape[1]
            first = past + 1 + by
            return {"position_ids": torch.arange(first, first + count, device=a["input_ids"].device)[None]}

        return change

    def sees_all(a):
        past, count = a["past_key_values"].get_seq_length(), a["input_ids"].shape[1]
        return {"attention_mask": torch.ones(1, 1, count, past + count, dtype=torch.bool, device=a["input_ids"].device)}

    def image_scaled(factor):
        def apply(m):
            m.model.multi_modal_projector.register_forward_hook(lambda module, inputs, output: output * factor)
            return m

        return apply

    def other_theta(m):
        rotary = m.model.language_model.rotary_emb
        # theta is 10000.
        rotary.inv_freq = rotary.inv_freq ** (math.log(500000.0) / math.log(10000.0))
        return m

    root = model.config.text_config.hidden_size**0.5
    gemma_norm = lambda n, m: type(m).__name__ == "GemmaRMSNorm"
    vision_norm = lambda n, m: isinstance(m, nn.LayerNorm)
    tower_left = lambda make: lambda m: replace_linears(m, make, lambda n: not is_vision(n))
    fp16 = {
        "Gemma's norm weights without the 1": each(gemma_norm, lambda m: m.weight.data.sub_(1.0)),
        "norm weights of 1 in the tower": each(vision_norm, lambda m: m.weight.data.fill_(1.0)),
        "image features divided by the root of hidden": image_scaled(1 / root),
        "image features times the root of hidden": image_scaled(root),
        "text embeddings not scaled": each(named("embed_tokens"), lambda m: m.embed_scale.fill_(1.0)),
        "prefix attended causally": of_prefix(lambda a: {"token_type_ids": torch.ones_like(a["input_ids"])}),
        "continuation sees what follows": of_rest(sees_all),
        "continuation's positions one too low": of_rest(moved(-1)),
        "rope theta of 500000": other_theta,
        "patches column by column": of_prefix(blocks_transposed),
        "colours in the order BGR": of_prefix(lambda a: {"pixel_values": a["pixel_values"].flip(1)}),
        "no positions in the tower": each(named("position_embedding"), lambda m: m.weight.data.zero_()),
        "no post_layernorm": each(named("post_layernorm"), lambda m: setattr(m, "forward", lambda x: x)),
        "vision scores divided by the root of hidden": each(
            lambda n, m: is_vision(n) and n.endswith(".self_attn"),
            lambda m: setattr(m, "scale", m.embed_dim**-0.5),
        ),
    }
    of_tower = ("patch_embedding", "layer_norm1", "layer_norm2", "post_layernorm", "v_proj", "out_proj", "fc1", "fc2")
    for bias in (*of_tower, "projector.linear"):
        with_bias = lambda n, m, bias=bias: n.endswith(bias) and getattr(m, "bias", None) is not None
        fp16[f"no bias in {bias}"] = each(with_bias, zero_bias)
    # The bias of the tower's keys adds the same to all scores of a query, and positions that all begin elsewhere turn
    # queries and keys alike: neither changes anything, so no golden can tell.
    of_queries = lambda n, m: is_vision(n) and n.endswith("q_proj")
    fp16["no bias in the tower's q_proj"] = each(of_queries, zero_bias)
    nf4 = {k: (lambda m, f=f: replace_linears(f(m), Nf4Linear)) for k, f in fp16.items()}
    nf4["the tower left in fp16"] = tower_left(Nf4Linear)
    nf4["the projector left in fp16"] = lambda m: replace_linears(m, Nf4Linear, lambda n: "projector" not in n)
    int8 = {
        "no more-than-one-row rule": quantise(column_rule=False),
        "no outlier path": quantise(threshold=0.0),
        "no bias in fc2": lambda m: quantise()(fp16["no bias in fc2"](m)),
        "image features divided by the root of hidden": lambda m: quantise()(image_scaled(1 / root)(m)),
    }
    return {"fp16": fp16, "int8": int8, "nf4": nf4}


def prove_features(model, batch, references, hf):
    """As prove(), for the image's features, which hold what the text's own rounding hides in the logits of int8."""
    in_tower = lambda **options: lambda m: quantise()(replace_linears(m, lambda w: Int8Linear(w, **options), is_vision))
    int8 = {
        "no more-than-one-row rule": in_tower(column_rule=False),
        "the tower's rows in chunks of 4": in_tower(chunk=4),
        "no outlier path": in_tower(threshold=0.0),
        "the tower left in fp16": lambda m: replace_linears(m, Int8Linear, lambda n: not is_vision(n)),
    }
    wrong = []
    for mode in references:
        reference, theirs = image_features(references[mode], batch), image_features(hf[mode], batch)
        wrap = {"fp16": lambda m: m.half(), "int8": Int8Linear, "nf4": Nf4Linear}[mode]
        other = replace_linears(copy.deepcopy(model), lambda linear: OtherRounding(wrap(linear)))
        cases = {"other rounding": image_features(other, batch)}
        for name, make in int8.items() if mode == "int8" else ():
            cases[name] = image_features(make(halved(model)), batch)
        for name, features in cases.items():
            figures = compare(features, theirs, reference)
            seen = max(figures["max"], figures["rms"]) > ERROR_RATIO
            print(f"  image features, {mode}, {name}: max {figures['max']:.2f}x rms {figures['rms']:.2f}x")
            wrong += [f"{mode}: {name}"] if seen != (name != "other rounding") else []
    assert not wrong, f"image features cannot tell: {'; '.join(wrong)}"


# Names of the tensors: in the published checkpoints (written by transformers 4), and in the model of transformers 5.
PUBLISHED = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def published_name(name):
    for new, old in PUBLISHED.items():
        if name.startswith(new):
            return old + name[len(new) :]
    raise AssertionError(f"{name} has no published name")


def published_config(config):
    """config.json in the form in which PaliGemma was published: what is a default of Gemma or SigLIP is left out, here
    but for the two that are not those of the published models, head_dim and image_size."""
    text, vision = config.text_config, config.vision_config
    text_keys = ("hidden_size", "intermediate_size", "model_type", "num_attention_heads", "num_hidden_layers")
    text_keys += ("num_image_tokens", "num_key_value_heads", "vocab_size", "head_dim")
    vision_keys = ("hidden_size", "intermediate_size", "model_type", "num_attention_heads", "num_hidden_layers")
    vision_keys += ("patch_size", "projection_dim", "vision_use_head", "image_size")
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "hidden_size": config.hidden_size,
        "ignore_index": -100,
        "image_token_index": config.image_token_index,
        "model_type": "paligemma",
        "pad_token_id": config.pad_token_id,
        "projection_dim": config.projection_dim,
        "text_config": {**{key: getattr(text, key) for key in text_keys}, "torch_dtype": "float16"},
        "torch_dtype": "float16",
        "transformers_version": "4.41.0.dev0",
        "vision_config": {
            **{key: getattr(vision, key) for key in vision_keys},
            "num_image_tokens": IMAGE_TOKENS,
            "projector_hidden_act": "gelu_fast",
            "torch_dtype": "float16",
        },
        "vocab_size": config.vocab_size,
    }


def save_checkpoint(model, folder):
    """Saves it in fp16 in the published form, and proves that transformers reads back what the goldens are made of."""
    folder.mkdir(exist_ok=True)
    half = halved(model)
    tensors = {published_name(name): p.data.contiguous() for name, p in half.named_parameters()}  # the tied head is none
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(published_config(model.config), indent=2, sort_keys=True) + "\n")
    generation = {key: getattr(model.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation = {"_from_model_config": True, **generation, "transformers_version": "4.41.0.dev0"}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    load = lambda **options: transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float16, **options)
    again, loading = load(output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    for sub in ("text_config", "vision_config"):
        old, new = (getattr(m.config, sub).to_dict() for m in (model, again))
        ignored = {"dtype", "num_image_tokens", "projector_hidden_act", "transformers_version", "_name_or_path", "architectures"}
        for key in (old.keys() | new.keys()) - ignored:
            assert old.get(key) == new.get(key), f"{folder}: {sub}.{key} is {new.get(key)}, was {old.get(key)}"
    for (key, a), b in zip(half.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), f"{folder}: {key} changed on the way to the file"
    four = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
    for options in (dict(load_in_8bit=True), four):
        quantized = load(device_map="cpu", quantization_config=transformers.BitsAndBytesConfig(**options))
        theirs = {n for n, m in quantized.named_modules() if type(m).__name__ in ("Linear8bitLt", "Linear4bit")}
        assert theirs == set(quantised_linears(model)), f"{folder}: bitsandbytes quantises other linears"


@torch.no_grad()
def hidden_states(model, batch):
    """The fp32 streams of sequence 0 [rows, width]: the tower's for each patch, the text's at the positions of ROWS."""
    vision, text = model.model.vision_tower, model.model.language_model
    calls, handles = {}, []  # the prefix is one call of the text's modules, what follows another

    def keep(module, key):
        def hook(m, inputs, output):
            calls.setdefault(key, []).append((output[0] if isinstance(output, tuple) else output)[0].clone())

        handles.append(module.register_forward_hook(hook))

    keep(vision.embeddings, "hidden.vision.embeddings")
    for i, layer in enumerate(vision.encoder.layers):
        keep(layer, f"hidden.vision.{i}")
    keep(vision.post_layernorm, "hidden.vision.final")
    for i, layer in enumerate(text.layers):
        keep(layer, f"hidden.text.{i}")
    keep(text.norm, "hidden.text.final")
    full(model, {key: values[:1] for key, values in batch.items()})
    for handle in handles:
        handle.remove()
    rows = {key: torch.cat(parts) for key, parts in calls.items()}
    rows = {key: tensor[HIDDEN_ROWS] if ".text." in key else tensor for key, tensor in rows.items()}
    return {"hidden.text_rows": torch.tensor(HIDDEN_ROWS).int(), **rows}


def write(out, made_by):
    """Writes the checkpoint and its golden below the folder out."""
    transformers.logging.set_verbosity_error()
    name = "paligemma"
    model, batch = build()
    references, hf = variants(model)
    at = [row - (PREFIX - 1) for row in ROWS]
    runs = {"full": lambda m: full(m, batch)[:, at], "steps": lambda m: steps(m, batch)[:, at]}
    prove(name, model, runs, references, hf, mutations(model), own_steps=["int8"])
    prove_features(model, batch, references, hf)
    save_checkpoint(model, out / name)
    tensors = {"ids": batch["ids"].int(), "pictures": batch["pictures"], "rows": torch.tensor(ROWS).int()}
    for mode in references:
        reference, theirs = full(references[mode], batch), [run(hf[mode], batch) for run in (full, steps)]
        tensors[f"ref.{mode}"] = reference[:, at]
        tensors[f"hf.{mode}.full"] = theirs[0][:, at]
        if mode == "int8":  # elsewhere one row a linear gives no other numbers than many
            tensors[f"hf.{mode}.steps"] = theirs[1][:, at]
        tensors[f"next.{mode}"] = clear_best(theirs, reference)
        tensors[f"image.ref.{mode}"] = image_features(references[mode], batch)
        tensors[f"image.hf.{mode}"] = image_features(hf[mode], batch)
    tensors.update(hidden_states(model, batch))
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(tensors, out / f"{name}.golden.safetensors", {"made_by": made_by})
