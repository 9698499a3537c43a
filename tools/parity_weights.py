"""RandomWeights of src/checkpoint, restated: the same fp16 bits from a seed, a tensor's name and an index; and what they
are drawn from, as telling_tensors() of src/engine/test_whole_model.cpp has it. Names are those of published checkpoints.
"""

import math

import torch

M32, M64 = 2**32 - 1, 2**64 - 1
OUTLIER_NORM_WEIGHT = 32.0
RANDOM_SIGMA = torch.tensor(147.80054, dtype=torch.float32).item()


def mix(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & M64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def key_of(seed, name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & M64
    return mix(value ^ mix(seed + 0x9E3779B97F4A7C15 & M64))


def outlier_channels(seed, width, count):
    channels, draw = set(), 0
    while len(channels) < count:
        channels.add(mix(key_of(seed, "outlier channels") + draw & M64) % width)
        draw += 1
    return sorted(channels)


def elements(seed, name, count, mean, sigma, device):
    """The first `count` < 2^32 elements of the tensor's stream in fp16."""
    key = mix(key_of(seed, name))
    before, between = key & M32, key >> 32
    out = torch.empty(count, dtype=torch.float16, device=device)
    scale = torch.tensor(sigma / RANDOM_SIGMA, dtype=torch.float32, device=device)
    at_once = 1 << 25
    for first in range(0, count, at_once):
        x = torch.arange(first, min(first + at_once, count), dtype=torch.int64, device=device) ^ before
        x = (x ^ x >> 16) * 0x7FEB352D + between & M32
        x = (x ^ x >> 15) * 0x846CA68B & M32
        x ^= x >> 16
        total = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)
        out[first : first + at_once] = ((total - 510).float() * scale + mean).half()
    return out


class Drawing:
    """Draws the tensors of a model. heads' width and the layers of each stack are the configuration's."""

    def __init__(self, seed, outliers, hidden, layers, head_dim=0, encoder_layers=0, has_picture=False):
        self.seed, self.outliers = seed, outliers
        self.hidden, self.layers, self.head_dim = hidden, layers, head_dim
        self.encoder_layers, self.has_picture = encoder_layers, has_picture

    def spread(self, name, shape):
        """-> mean, sigma, whether outlier channels are planted."""
        planted = self.outliers * (OUTLIER_NORM_WEIGHT * OUTLIER_NORM_WEIGHT - 1.0)
        cols = math.prod(shape[1:])
        has = lambda *parts: any(part in name for part in parts)
        is_tower = "vision_tower" in name
        layers = self.encoder_layers if is_tower or name.startswith("encoder.") else self.layers
        table = 3.0 / math.sqrt(self.hidden)
        stream = 1.0 if is_tower else 3.0 if self.has_picture else table
        writes_stream = has("o_proj", "dense", "down_proj", "fc2", "out_proj") or name.endswith((".o.weight", ".wo.weight"))
        # Gemma adds 1 to what its norms are given.
        plus = 1.0 if self.has_picture and name.startswith("language_model.") and "norm" in name else 0.0
        if name.endswith(("model.norm.weight", "decoder.final_layer_norm.weight")) or "model.final_layernorm.weight" in name:
            return -plus, 1.0, False
        if "relative_attention_bias" in name:
            return 0.0, 1.0, False
        if "position_embedding" in name:
            return 0.0, 0.7, False
        if name.endswith("patch_embedding.weight"):
            return 0.0, 1.2 / math.sqrt(cols), False
        if len(shape) == 1 and name.endswith(".bias"):
            # Smaller ones of a tower would drown in what comes after it.
            bias = 0.1 if not is_tower else 0.6 if "q_proj" in name else 0.3
            return 0.0, 0.1 * stream if writes_stream or has("projector", "patch") else bias, False
        if len(shape) == 1:
            return 1.0 - plus, 0.3, True
        if has("embed", "lm_head", "shared"):
            return 0.0, table, False
        if "projector" in name:
            return 0.0, stream / math.sqrt(cols + planted), False
        if writes_stream:
            return 0.0, 0.4 * stream / math.sqrt(cols) / math.sqrt(layers), False
        gains = {"q_proj": 1.4, "k_proj": 1.4, ".k.weight": 1.4, "v_proj": 2.0, ".v.weight": 2.0, "up_proj": 1.0, ".wi_1.": 1.0}
        if name.endswith(".q.weight"):
            gains = {".q.weight": 1.4 / math.sqrt(self.head_dim)}
        gain = next((g for part, g in gains.items() if part in name), 1.5)
        return 0.0, gain / math.sqrt(cols + planted), False

    def draw(self, name, shape, device):
        mean, sigma, has_outliers = self.spread(name, shape)
        values = elements(self.seed, name, math.prod(shape), mean, sigma, device)
        if has_outliers:
            values[outlier_channels(self.seed, shape[0], self.outliers)] = OUTLIER_NORM_WEIGHT
        return values.view(shape)
