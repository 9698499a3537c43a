#!/usr/bin/env python3
"""Trains the bundled model: a Llama of 7 M parameters on public-domain English novels.

    python3 tools/train_bundled_model.py --corpus DIR --validation FILE --out DIR

DIR holds the training texts (*.txt); the validation text is left out of them by name, and neither
the tokenizer nor a model ever sees it. The text is small (16 MB), so the work goes into getting the
most out of it:

1. A byte-level BPE tokenizer with Llama-3's pre-tokenizer is trained on the texts.
2. Every text is re-wrapped at several random line widths, so that no line break is seen twice.
3. A few larger Llamas ("teachers") are trained on them with strong regularisation.
4. The teachers write new text: windows that no teacher has memorised.
5. The student, the bundled model, learns the teachers' averaged distribution on real and written
   windows. A slice of the training books, kept out of all training, picks its best state.
6. The student is cast to fp16, written in Hugging Face's layout, read back by transformers and
   measured there on the validation text.

Needs PyTorch, transformers, tokenizers and safetensors; a CUDA GPU for the real sizes. Finished
stages are kept in --work and taken from there by a later run with the same settings.
"""

import argparse
import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bundled.checkpoint import measure_checkpoint, write_checkpoint, write_json
from bundled.llama import Llama, Shape, write_windows
from bundled.settings import Settings
from bundled.text import Corpus, read_corpus
from bundled.training import distillation_loss, fit, log, mean_loss, next_token_loss, windows_of


def claim_work(work: Path, settings: Settings):
    """Stages of other settings must not slip into this run."""
    file, mine = work / "settings.json", dataclasses.asdict(settings)
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != mine:
        raise SystemExit(f"{work} holds teachers of other settings ({file}); delete it or name another with --work")
    write_json(file, mine)


def shape_of(settings: Settings, who: str) -> Shape:
    get = lambda name: getattr(settings, f"{who}_{name}")
    return Shape(settings.vocabulary, get("hidden"), get("layers"), get("hidden") // settings.head_dim,
                 get("kv_heads"), settings.head_dim, get("intermediate"), settings.context)


def compiled(function, device):
    return torch.compile(function) if torch.device(device).type == "cuda" else function


def train_teachers(settings: Settings, corpus: Corpus, work: Path, device: str) -> list[Llama]:
    steps = int(settings.teacher_epochs * len(corpus.streams[0]) / (settings.batch * settings.context))
    loss_of_windows = compiled(next_token_loss, device)
    teachers = []
    for index in range(settings.teachers):
        torch.manual_seed(settings.seed + 100 + index)
        teacher = Llama(shape_of(settings, "teacher"), settings.teacher_dropout).to(device)
        file = work / f"teacher{index}.safetensors"
        if file.exists():
            teacher.load_state_dict(load_file(file, device=device))
        else:
            batches = windows_of(corpus.streams, settings.context, settings.batch, settings.seed + 100 + index)
            fit(f"teacher {index}", teacher, lambda m: loss_of_windows(m, next(batches), corpus.begin),
                steps, settings.teacher_lr, settings.teacher_decay, corpus, 8)
            save_file(teacher.state_dict(), file)
        teachers.append(teacher.eval().requires_grad_(False))
        log(f"teacher {index}: {sum(p.numel() for p in teacher.parameters())} parameters, "
            f"held out {mean_loss(teacher, corpus.held_out, corpus.begin):.4f}, "
            f"validation {mean_loss(teacher, [corpus.validation], corpus.begin):.4f}")
    return teachers


class Mean(nn.Module):
    """The teachers' mean distribution as one model, to measure what the student can hope for."""

    def __init__(self, teachers: list[Llama]):
        super().__init__()
        self.teachers, self.shape = nn.ModuleList(teachers), teachers[0].shape

    def forward(self, ids):
        return (sum(t(ids).float().softmax(-1) for t in self.teachers) / len(self.teachers)).log()


def write_text(settings: Settings, teachers: list[Llama], corpus: Corpus, work: Path) -> torch.Tensor:
    """[windows, context] int64, each begun by real text. The teachers take turns, `writers` windows a
    turn; at the default settings there are five turns, so the first five of eight write."""
    file = work / "written.safetensors"
    device = corpus.streams[0].device
    if file.exists():
        return load_file(file, device=str(device))["windows"].long()
    torch.manual_seed(settings.seed + 200)
    prompts = windows_of(corpus.streams, settings.written_prompt, settings.writers, settings.seed + 200)
    rounds = math.ceil(settings.written_tokens / (settings.context * settings.writers))
    written = torch.cat([write_windows(teachers[i % len(teachers)], next(prompts), corpus.begin)
                         for i in range(rounds)])
    save_file({"windows": written.int()}, file)
    log(f"the teachers wrote {written.numel()} tokens")
    return written


def train_student(settings: Settings, teachers, written, corpus: Corpus, device: str) -> Llama:
    torch.manual_seed(settings.seed)
    student = Llama(shape_of(settings, "student"), settings.student_dropout).to(device)
    steps = int(settings.student_epochs * len(corpus.streams[0]) / (settings.batch * settings.context))
    share = round(settings.batch * settings.written_share) if written is not None else 0
    batches = windows_of(corpus.streams, settings.context, settings.batch - share, settings.seed)
    picks = torch.Generator().manual_seed(settings.seed)
    loss_of_windows = compiled(distillation_loss, device)

    def loss_of(model):
        windows = next(batches)
        if share:
            chosen = torch.randint(len(written), (share,), generator=picks)
            windows = torch.cat((windows, written[chosen.to(written.device)]))
        return loss_of_windows(model, teachers, windows, corpus.begin, settings.teacher_weight)

    fit("student", student, loss_of, steps, settings.student_lr, settings.student_decay, corpus, 20)
    return student.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the training texts")
    parser.add_argument("--validation", type=Path, required=True, help="the validation text")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--work", type=Path, help="where teachers are kept (default: OUT.work)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    args = parser.parse_args()
    settings = Settings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)})
    work = args.work or args.out.with_name(args.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    claim_work(work, settings)
    log(f"torch {torch.__version__}, tokenizers {tokenizers.__version__}, {args.device}, {settings}")

    started = time.monotonic()
    corpus = read_corpus(args.corpus, args.validation, settings, args.device)
    teachers = train_teachers(settings, corpus, work, args.device)
    mean = Mean(teachers)
    log(f"teachers' mean: held out {mean_loss(mean, corpus.held_out, corpus.begin):.4f}, "
        f"validation {mean_loss(mean, [corpus.validation], corpus.begin):.4f}")
    written = write_text(settings, teachers, corpus, work) if settings.written_tokens else None
    student = train_student(settings, teachers, written, corpus, args.device)
    write_checkpoint(student, corpus, args.out)
    shutil.copyfile(args.validation, args.out / "validation.txt")
    report = measure_checkpoint(settings.context, corpus, args.out, args.device)
    report["seconds"] = round(time.monotonic() - started)
    write_json(work / "report.json", {"settings": dataclasses.asdict(settings), **report})
    log(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
