"""Optimiser, batches, losses and the training loop of the bundled model."""

import math
import random
import time

import torch
import torch.nn.functional as F
from torch import nn

from bundled.llama import Llama, autocast
from bundled.text import Corpus


def log(text: str):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Muon:
    """Orthogonalised momentum for the layers' matrices, AdamW for the embedding and the norms.

    Matrices of one shape are orthogonalised together (Newton-Schulz, Jordan's coefficients), with
    updates scaled to AdamW's usual size, so that one learning rate and decay serve both."""

    def __init__(self, model: Llama, decay: float, momentum: float = 0.95):
        matrices = [p for p in model.layers.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() != 2] + [model.embed_tokens.weight]
        self.groups = {}
        for p in matrices:
            self.groups.setdefault(p.shape, []).append(p)
        self.velocity = {s: torch.zeros(len(ps), *s, device=ps[0].device) for s, ps in self.groups.items()}
        self.decay, self.momentum = decay, momentum
        self.adam = torch.optim.AdamW(
            [{"params": [p for p in others if p.dim() == 2], "weight_decay": decay},
             {"params": [p for p in others if p.dim() != 2], "weight_decay": 0.0}],
            betas=(0.9, 0.98), fused=others[0].is_cuda)

    @torch.no_grad()
    def step(self, lr: float):
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        for shape, parameters in self.groups.items():
            gradient = torch.stack([p.grad for p in parameters])
            velocity = self.velocity[shape].lerp_(gradient, 1 - self.momentum)
            update = orthogonal(gradient.lerp(velocity, self.momentum))
            torch._foreach_mul_(parameters, 1 - lr * self.decay)
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-lr * 0.2 * math.sqrt(max(shape)))


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """g [n, rows, columns] -> nearly the nearest matrices with orthonormal rows or columns, fp32."""
    x = g.bfloat16() if g.is_cuda else g
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


def inputs_of(windows: torch.Tensor, begin: int) -> torch.Tensor:
    """Each window [B, T] as the model reads it: BEGIN, then all but the last token."""
    return torch.cat((torch.full_like(windows[:, :1], begin), windows[:, :-1]), 1)


def windows_of(streams: list[torch.Tensor], length: int, batch: int, seed: int):
    """Endless batches [batch, length]. An epoch cuts one stream at a random offset and shuffles the
    windows: each token is seen once an epoch, each time beside another window edge and wrapping."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, length, dtype=torch.int64, device=streams[0].device)
    order: list[int] = []
    while True:
        while len(left) < batch:
            if not order:
                order = rng.sample(range(len(streams)), len(streams))
            stream = streams[order.pop()]
            offset = rng.randrange(min(length, len(stream) - length))
            count = (len(stream) - offset) // length
            cut = stream[offset:offset + count * length].view(count, length)
            left = torch.cat((left, cut[torch.randperm(count, generator=generator).to(cut.device)]))
        yield left[:batch]
        left = left[batch:]


def fit(name: str, model: Llama, loss_of, steps: int, peak_lr: float, decay: float, corpus: Corpus, evaluations: int):
    """Minimises loss_of(model) with warm-up and a linear fall to zero; the model ends in the
    state that was best on the held-out slices. Returns its loss there."""
    optimiser = Muon(model, decay)
    warm_up = max(1, min(200, steps // 10))
    best, best_state, started = math.inf, None, time.monotonic()
    for step in range(steps):
        lr = peak_lr * min((step + 1) / warm_up, (steps - step) / (steps - warm_up))
        loss = loss_of(model)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(lr)
        model.zero_grad(set_to_none=True)
        if (step + 1) * evaluations // steps > step * evaluations // steps:
            held_out = mean_loss(model, corpus.held_out, corpus.begin)
            if held_out < best:
                best, best_state = held_out, {k: v.clone() for k, v in model.state_dict().items()}
            log(f"{name}: step {step + 1} of {steps}, loss {loss.item():.4f}, held out {held_out:.4f}, "
                f"{time.monotonic() - started:.0f} s")
    model.load_state_dict(best_state)
    return best


@torch.no_grad()
def mean_loss(model, documents: list[torch.Tensor], begin: int, batch: int = 32) -> float:
    """Nats a token over whole documents: windows of `context` tokens that begin with BEGIN and move
    by half a window; each token is scored once, in the first window that holds it."""
    context = model.shape.context
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for ids in documents:
        length = min(context, len(ids))
        starts = sorted({*range(0, len(ids) - length, context // 2), len(ids) - length})
        scored_to = 0
        for i in range(0, len(starts), batch):
            windows = torch.stack([ids[s:s + length] for s in starts[i:i + batch]])
            with autocast(ids.device):
                logits = model(inputs_of(windows, begin))
            losses = F.cross_entropy(logits.float().transpose(1, 2), windows, reduction="none")
            for start, row in zip(starts[i:i + batch], losses):
                row = row[scored_to - start:]
                total, count, scored_to = total + row.sum().double(), count + len(row), start + length
    model.train(was_training)
    return float(total) / count


def next_token_loss(model, windows, begin):
    with autocast(windows.device):
        logits = model(inputs_of(windows, begin))
    return F.cross_entropy(logits.float().flatten(0, 1), windows.flatten())


def distillation_loss(student, teachers, windows, begin, teacher_weight):
    """Cross-entropy with the teachers' mean distribution, mixed with the window's own next token."""
    ids = inputs_of(windows, begin)
    with autocast(windows.device):
        with torch.no_grad():
            target = sum(teacher(ids).float().softmax(-1) for teacher in teachers) / len(teachers)
        log_q = student(ids).float().log_softmax(-1)
    of_teachers = -(target * log_q).sum(-1).mean()
    of_text = F.nll_loss(log_q.flatten(0, 1), windows.flatten())
    return teacher_weight * of_teachers + (1 - teacher_weight) * of_text
