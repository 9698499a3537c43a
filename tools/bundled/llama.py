"""Llama's forward pass in PyTorch, with dropout for training and cached steps for sampling."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True)
class Shape:
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    context: int
    theta: float = 10000.0
    eps: float = 1e-5


class RmsNorm(nn.Module):
    def __init__(self, hidden: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(hidden)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, q, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.o_proj = nn.Linear(q, shape.hidden, bias=False)

    def heads(self, x, cos, sin):
        """x [B, T, hidden] -> q [B, heads, T, d], k and v [B, kv_heads, T, d], q and k rotated."""
        split = lambda y: y.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)

        def rotate(y):
            low, high = y.float().chunk(2, -1)
            return (y.float() * cos + torch.cat((-high, low), -1) * sin).to(y.dtype)

        return rotate(split(self.q_proj(x))), rotate(split(self.k_proj(x))), split(self.v_proj(x))

    def forward(self, x, cos, sin):
        q, k, v = self.heads(x, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def step(self, x, cos, sin, keys, values, position: int):
        """One token, x [B, 1, hidden]; keys and values [B, kv_heads, context, d] are filled to `position`."""
        q, k, v = self.heads(x, cos, sin)
        keys[:, :, position], values[:, :, position] = k[:, :, 0], v[:, :, 0]
        q = q.view(q.shape[0], self.shape.kv_heads, -1, self.shape.head_dim)
        scores = q @ keys[:, :, :position + 1].transpose(-1, -2) * self.shape.head_dim ** -0.5
        mixed = scores.float().softmax(-1).to(q.dtype) @ values[:, :, :position + 1]
        return self.o_proj(mixed.reshape(x.shape[0], 1, -1))


class Mlp(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape, dropout: float):
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden, shape.eps)
        self.mlp = Mlp(shape)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h, attend):
        """h [B, T, hidden]; attend(attention module, normalised h) is the whole window or one step."""
        h = h + self.dropout(attend(self.self_attn, self.input_layernorm(h)))
        return h + self.dropout(self.mlp(self.post_attention_layernorm(h)))


class Llama(nn.Module):
    """The Llama forward pass with tied embeddings. Parameters are named as in Hugging Face's
    LlamaModel, so that the state dict with "model." before each name is a checkpoint."""

    def __init__(self, shape: Shape, dropout: float = 0.0):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.hidden, shape.eps)
        self.dropout = nn.Dropout(dropout)
        frequencies = shape.theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.outer(torch.arange(shape.context).float(), frequencies)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)  # [context, head_dim]
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * shape.layers) if into_residual else 1))

    def forward(self, ids):
        """ids [B, T] -> logits [B, T, vocabulary]."""
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        h = self.dropout(self.embed_tokens(ids))
        for layer in self.layers:
            h = layer(h, lambda attention, x: attention(x, cos, sin))
        return F.linear(self.norm(h), self.embed_tokens.weight)

    def step(self, ids, caches, position: int):
        """ids [B] at `position`, caches [layers][2] of [B, kv_heads, context, d] -> logits [B, vocabulary]."""
        cos, sin = self.cos[position], self.sin[position]
        h = self.embed_tokens(ids[:, None])
        for layer, (keys, values) in zip(self.layers, caches):
            h = layer(h, lambda attention, x: attention.step(x, cos, sin, keys, values, position))
        return F.linear(self.norm(h), self.embed_tokens.weight)[:, 0]


def autocast(device):
    device = torch.device(device).type
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@torch.no_grad()
def write_windows(teacher: Llama, prompts: torch.Tensor, begin: int) -> torch.Tensor:
    """prompts [B, p] -> [B, context]: the teacher's continuations, sampled at temperature 1."""
    shape, device = teacher.shape, prompts.device
    teacher.eval()
    kind = torch.bfloat16 if prompts.is_cuda else torch.float32
    cache = lambda: torch.empty(len(prompts), shape.kv_heads, shape.context, shape.head_dim, dtype=kind, device=device)
    caches = [(cache(), cache()) for _ in range(shape.layers)]
    windows = torch.empty(len(prompts), shape.context, dtype=torch.int64, device=device)
    ids = torch.full_like(prompts[:, 0], begin)
    for position in range(shape.context):
        with autocast(device):
            logits = teacher.step(ids, caches, position)
        noise = torch.empty_like(logits, dtype=torch.float32).exponential_()
        ids = (logits.float().softmax(-1) / noise).argmax(-1)  # a sample from the softmax
        if position < prompts.shape[1]:
            ids = prompts[:, position]
        windows[:, position] = ids
    return windows
