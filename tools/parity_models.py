"""The model families of parity.py: models of transformers with the program's random weights and bitsandbytes' arithmetic
in their linears, how each is run teacher-forced, and mistakes that the limits must see.
"""

import contextlib
import copy
import gc
import types
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

import bitsandbytes_cuda as bnb_cuda
import goldens_paligemma
import goldens_t5
from goldens_common import OtherRounding
from parity_weights import Drawing

CHUNK = 1024  # tokens of a context in one call


# --- bitsandbytes' linears -----------------------------------------------------------------------
class Int8Linear(nn.Module):
    column_rule = True  # of all: an outlier in any row of a call makes its column one
    threshold = bnb_cuda.THRESHOLD
    always_many = False  # of one: even where the rest is as in steps, its rows come in one call

    def __init__(self, weight, bias):
        super().__init__()
        self.cb, self.scb = bnb_cuda.quantize_int8(weight)
        self.bias = bias

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        rule = Int8Linear.column_rule or self.always_many
        y = bnb_cuda.int8_linear(rows, self.cb, self.scb, self.bias, Int8Linear.threshold, rule)[0]
        return y.view(*x.shape[:-1], -1)

    def dequantised(self):
        return self.cb.float() * (self.scb[:, None] / 127.0)


class HalfLinear(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)

    def dequantised(self):
        return self.weight.float()


class Nf4Linear(HalfLinear):
    """bitsandbytes' dequantise-then-linear product: its fused one rounds more often, so this is the stricter limit."""

    def __init__(self, weight, bias):
        packed, absmax8, nested_absmax, offset = bnb_cuda.quantize_nf4(weight)
        scales = bnb_cuda.nested_scales(absmax8, bnb_cuda.nested_code().to(weight.device), nested_absmax, offset)
        self.exact = bnb_cuda.dequantize_nf4(packed, scales, bnb_cuda.NF4_CODE.to(weight.device), weight.shape)
        super().__init__(self.exact.half(), bias)

    def __setattr__(self, name, value):
        # `exact` comes before nn.Module is made, and is no parameter.
        object.__setattr__(self, name, value) if name == "exact" else super().__setattr__(name, value)

    def dequantised(self):
        return self.exact


LINEARS = {"fp16": HalfLinear, "int8": Int8Linear, "4bit": Nf4Linear}
QUANTISED = tuple(LINEARS.values())


@dataclass
class Place:
    """Where logits are judged: of `count` ids behind `context` ids, those behind a prompt where the family has one."""

    name: str
    ids: torch.Tensor
    context: int
    count: int
    prompt: torch.Tensor | None = None
    picture: torch.Tensor | None = None  # uint8 [size, size, 3]

    def text(self):
        behind = f"{len(self.prompt)} tokens, " if self.prompt is not None else ""
        return f"{behind}{self.context}+{self.count}"

    def few(self, count):
        return Place(self.name, self.ids, self.context, min(count, self.count), self.prompt, self.picture)


@contextlib.contextmanager
def replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    yield
    setattr(owner, name, before)


def call_of_many(rows_are_many):
    return replaced(Int8Linear, "column_rule", rows_are_many)


@dataclass
class Stack:
    """Layers in which mistakes of a layer are made: in one of them, and in all."""

    name: str  # "" or " of the encoder"
    layers: list
    norm: str
    # Linears whose bias nobody could miss.
    unseen: tuple = ()


class Family:
    """A decoder alone. Of the others see below."""

    kept = ("lm_head",)  # linears that are never quantised, by the end of their names
    rows_before = 0  # of the logits, in front of those of the ids
    contexts = {"meta-llama/Llama-3.2-1B": 7000, "microsoft/phi-2": 1536}

    def __init__(self, config, device):
        self.config, self.device = config, device

    # --- weights and models
    def drawing(self, seed, outliers):
        return Drawing(seed, outliers, self.config.hidden_size, self.config.num_hidden_layers)

    def empty(self, dtype):
        return transformers.AutoModelForCausalLM.from_config(self.config, dtype=dtype)

    def published(self, name):
        return name

    def weights(self, seed, outliers):
        """-> by the names of transformers' model, in fp16."""
        with torch.device("meta"):
            shapes = {n: tuple(p.shape) for n, p in self.empty(torch.float32).named_parameters()}
        drawing = self.drawing(seed, outliers)
        return {n: drawing.draw(self.published(n), shape, self.device) for n, shape in shapes.items()}

    def build(self, weights, dtype, replace):
        """A transformers model of those weights; replace(linear of the model's, its name) -> module or None."""
        with torch.device(self.device):
            model = self.empty(dtype).eval()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False).copy_(weights[name])
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and not name.endswith(self.kept):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, replace(module, name))
        for name, buffer in model.named_buffers():
            right = "inv_freq" not in name or buffer.dtype == torch.float32
            assert right, f"{name}: rotary frequencies must not be rounded to {buffer.dtype}"
        return model

    def build_all(self, weights, precision):
        """-> theirs, other, reference."""
        made = {}

        def theirs(module, name):
            bias = None if module.bias is None else module.bias.data
            made[name] = LINEARS[precision](module.weight.data, bias)
            return made[name]

        def reference(module, name):
            module.weight.data = made[name].dequantised()
            return module

        return (
            self.build(weights, torch.float16, theirs),
            self.build(weights, torch.float32, lambda module, name: OtherRounding(made[name])),
            self.build(weights, torch.float32, reference),
        )

    # --- runs
    def places(self, name, options):
        g = torch.Generator().manual_seed(7)
        context = self.contexts.get(name, options.context)
        count = max(options.positions, context + options.behind)
        ids = torch.randint(0, self.config.vocab_size, (count,), generator=g).to(self.device)
        return [Place("short", ids, 0, options.positions), Place("long", ids, context, options.behind)]

    def shows_mistakes(self, place):
        return place.context == 0

    def begin(self, model, place):
        """What comes before the ids, which is never steps -> (rows of logits, cache or what else a call needs)."""
        return [], {}

    def call(self, model, ids, before, **options):
        return model(input_ids=ids[None], use_cache=True, **before, **options)

    @torch.no_grad()
    def logits(self, model, place, steps):
        """[rows_before + count, vocab]: in one call, or as if each id were a step of its own."""
        with call_of_many(True):
            rows, before = self.begin(model, place)
            for first in range(0, place.context, CHUNK):
                part = place.ids[first : min(first + CHUNK, place.context)]
                before = {**before, "past_key_values": self.call(model, part, before, logits_to_keep=1).past_key_values}
        with call_of_many(not steps):
            ids = place.ids[place.context : place.context + place.count]
            return torch.cat([*rows, self.call(model, ids, before).logits[0]])

    @torch.no_grad()
    def really_stepped(self, model, place):
        rows, before = self.begin(model, place)
        for token in place.ids[: place.count]:
            result = self.call(model, token.view(1), before)
            before = {**before, "past_key_values": result.past_key_values}
            rows.append(result.logits[0])
        return torch.cat(rows)

    # --- mistakes
    def stacks(self, model):
        return [Stack("", model.model.layers, "input_layernorm")]

    def mistakes_of_layers(self, stack, precision):
        """-> (what, layer -> context manager in which that layer makes it)."""
        norm_of = lambda layer: layer.get_submodule(stack.norm).weight
        # Gemma's norms add 1.
        without = torch.zeros_like if "Gemma" in type(stack.layers[0].get_submodule(stack.norm)).__name__ else torch.ones_like
        yield f"{stack.norm} without its weight", lambda layer: replaced(norm_of(layer), "data", without(norm_of(layer).data))
        for name, module in stack.layers[0].named_modules():
            if not isinstance(module, QUANTISED) or module.bias is None or name.endswith(stack.unseen):
                continue
            if precision == "int8" and name.endswith("k_proj"):
                # What a key's bias adds to a query's scores is mostly the same for all positions, and the softmax takes it
                # off again: where codes fall one way or the other it cannot be seen to be missing, but to be wrong by twice.
                yield f"{name} with the opposite of its bias", lambda layer, name=name: replaced(
                    layer.get_submodule(name), "bias", -layer.get_submodule(name).bias
                )
                continue
            yield f"{name} without its bias", lambda layer, name=name: replaced(layer.get_submodule(name), "bias", None)

    def whole_mistakes(self, model, precision, place):
        """What -> a function that makes it in a copy of the model, and returns that."""
        return {}

    def mistakes(self, model, precision, place):
        """-> (what, [(where, a function that gives a context manager with the mistaken model)]), until one is seen."""
        for stack in self.stacks(model):
            for what, mistake in self.mistakes_of_layers(stack, precision):

                @contextlib.contextmanager
                def made(layers, mistake=mistake):
                    with contextlib.ExitStack() as all_made:
                        for layer in layers:
                            all_made.enter_context(mistake(layer))
                        yield model

                middle = [stack.layers[len(stack.layers) // 2]]
                yield what, [
                    (f"in the middle layer{stack.name}", lambda made=made, layers=middle: made(layers)),
                    (f"in every layer{stack.name}", lambda made=made, layers=stack.layers: made(layers)),
                ]
        if precision == "int8":

            @contextlib.contextmanager
            def no_outliers():
                with replaced(Int8Linear, "threshold", 0.0):
                    yield model

            yield "no outliers apart", [("", no_outliers)]
        for what, change in self.whole_mistakes(model, precision, place).items():

            @contextlib.contextmanager
            def copied(change=change):
                yield change(copy.deepcopy(model))
                gc.collect()  # modules refer to each other, and a few copies would fill a GPU

            yield what, [("", copied)]


class T5(Family):
    kept = ("lm_head", ".wo")  # wo: in fp32 in every precision, as transformers' _keep_in_fp32_modules has it
    cross = (".EncDecAttention.k", ".EncDecAttention.v")  # linears of the decoder whose rows are the encoder's
    texts = {"short": 8, "long": 512}  # tokens of the encoder's text

    def drawing(self, seed, outliers):
        c = self.config
        return Drawing(seed, outliers, c.d_model, c.num_decoder_layers, c.d_kv, c.num_layers)

    def empty(self, dtype):
        model = transformers.T5ForConditionalGeneration(self.config).to(dtype)
        assert not self.config.scale_decoder_outputs, "a head of its own is all that is built here"
        # transformers 5 ties what it makes of a configuration, whatever that says.
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
        for name, module in model.named_modules():
            if name.endswith(".wo"):
                module.float()
        return model

    def build(self, weights, dtype, replace):
        model = super().build(weights, dtype, replace)
        for name, module in model.named_modules():
            if isinstance(module, Int8Linear):
                module.always_many = name.endswith(self.cross)
        return model

    def places(self, name, options):
        g = torch.Generator().manual_seed(7)
        draw = lambda count: torch.randint(2, self.config.vocab_size, (count,), generator=g).to(self.device)
        ids = draw(options.positions)
        ids[0] = self.config.decoder_start_token_id
        return [Place(place, ids, 0, options.positions, draw(count)) for place, count in self.texts.items()]

    def begin(self, model, place):
        encoded = model.encoder(input_ids=place.prompt[None]).last_hidden_state
        return [], {"encoder_outputs": BaseModelOutput(last_hidden_state=encoded)}

    def call(self, model, ids, before):
        return model(decoder_input_ids=ids[None], use_cache=True, **before)

    def stacks(self, model):
        return [
            Stack(" of the encoder", model.encoder.block, "layer.0.layer_norm"),
            Stack(" of the decoder", model.decoder.block, "layer.0.layer_norm"),
            Stack(" of the decoder", model.decoder.block, "layer.1.layer_norm"),  # in front of the cross-attention
        ]

    def whole_mistakes(self, model, precision, place):
        form = types.SimpleNamespace(tied=False, encoder_tokens=len(place.prompt))
        made = goldens_t5.mutations(model, form)["fp16"]
        # These need weights and a width of their own (goldens_t5.py); the first is made by layers, above.
        for name in ("norm weights of 1", "wo rounded to fp16", "epsilon of 1e-5"):
            del made[name]
        made["the decoder's wide buckets begin one position late"] = self.late_buckets
        if place.name == "short":
            made["the last token of the text is not read"] = self.last_token_not_read
            # One of the encoder's, of which so short a text has none.
            del made["a bucket begins one position late"]
        if precision == "4bit":
            made["wo quantised too"] = self.wo_quantised
        if precision == "int8":  # whose own noise hides the others
            seen = ("no relative bias in the decoder", "scores divided by the root of d_kv")
            made = {name: made[name] for name in seen}
        return made

    @staticmethod
    def late_buckets(m):
        attention = goldens_t5.self_attention(m, "decoder")
        right = attention._relative_position_bucket
        attention._relative_position_bucket = lambda r, **options: right(
            torch.where(r.abs() > options["num_buckets"] // 2, r - r.sign(), r), **options
        )
        return m

    @staticmethod
    def last_token_not_read(m):
        right = m.encoder.forward

        def forward(**arguments):
            out = right(**arguments)
            out.last_hidden_state = out.last_hidden_state[:, :-1]
            return out

        m.encoder.forward = forward
        return m

    @staticmethod
    def wo_quantised(m):
        for name, module in m.named_modules():
            if name.endswith(".wo"):
                module.weight.data = Nf4Linear(module.weight.data.half(), None).dequantised()
        return m


class PaliGemma(Family):
    rows_before = 1  # that of the prompt's last token
    texts = {"short": 8, "long": 512}  # tokens of the prompt behind the picture's

    def drawing(self, seed, outliers):
        text, vision = self.config.text_config, self.config.vision_config
        return Drawing(seed, outliers, text.hidden_size, text.num_hidden_layers, 0, vision.num_hidden_layers, True)

    def empty(self, dtype):
        return transformers.AutoModelForImageTextToText.from_config(self.config, dtype=dtype)

    def published(self, name):
        return goldens_paligemma.published_name(name)

    def weights(self, seed, outliers):
        self.drawn = super().weights(seed, outliers)
        return self.drawn

    def places(self, name, options):
        g = torch.Generator().manual_seed(7)
        c = self.config
        size, patch = c.vision_config.image_size, c.vision_config.patch_size
        picture = torch.randint(0, 256, (size, size, 3), generator=g).to(torch.uint8).to(self.device)
        draw = lambda count: torch.randint(3, c.image_token_id, (count,), generator=g)
        ids = draw(options.positions).to(self.device)
        image = torch.full(((size // patch) ** 2,), c.image_token_id)
        prompt = lambda count: torch.cat([image, torch.tensor([c.bos_token_id]), draw(count - 1)]).to(self.device)
        return [Place(place, ids, 0, options.positions, prompt(count), picture) for place, count in self.texts.items()]

    def begin(self, model, place):
        ids, pixels = place.prompt[None], goldens_paligemma.pixel_values(place.picture[None]).to(model.dtype)
        # Of the prefix, which attends to all of itself.
        types_of_prefix = torch.zeros_like(ids)
        first = model(input_ids=ids, pixel_values=pixels, token_type_ids=types_of_prefix, use_cache=True, logits_to_keep=1)
        return [first.logits[0]], {"past_key_values": first.past_key_values}

    def stacks(self, model):
        tower = model.model.vision_tower.encoder.layers
        # The bias of a key adds the same to all scores of a query.
        return [
            Stack(" of the tower", tower, "layer_norm1", unseen=("k_proj",)),
            Stack(" of the decoder", model.model.language_model.layers, "input_layernorm"),
        ]

    def whole_mistakes(self, model, precision, place):
        made = goldens_paligemma.mutations(model)["fp16"]
        by_layers = ("v_proj", "out_proj", "fc1", "fc2", "the tower's q_proj")  # above
        made = {name: change for name, change in made.items() if not name.endswith(by_layers)}
        if precision == "4bit":
            made["the tower left in fp16"] = self.left_in_fp16("vision_tower")
            made["the projector left in fp16"] = self.left_in_fp16("projector")
        if precision == "int8":  # whose own noise hides the others
            seen = ("image features divided by the root of hidden", "text embeddings not scaled")
            made = {name: made[name] for name in seen}
        return made

    def left_in_fp16(self, part):
        def apply(m):
            for name, module in list(m.named_modules()):
                if isinstance(module, Nf4Linear) and part in name:
                    parent, _, child = name.rpartition(".")
                    setattr(m.get_submodule(parent), child, HalfLinear(self.drawn[f"{name}.weight"], module.bias))
            return m

        return apply


FAMILIES = {"t5": T5, "paligemma": PaliGemma}


def family_of(config, device):
    return FAMILIES.get(config.model_type, Family)(config, device)
