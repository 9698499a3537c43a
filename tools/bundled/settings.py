"""The numbers that shape the bundled model; the defaults are those that it was trained with."""

import dataclasses


@dataclasses.dataclass
class Settings:
    """Every number that shapes the result; each is a command-line flag of the same name."""

    seed: int = 1
    vocabulary: int = 4096
    context: int = 1024
    wrappings: int = 8  # versions of the text: as printed, and re-wrapped at random widths
    held_out: float = 0.02  # share of each training book that picks the best state
    batch: int = 32  # windows of `context` tokens a step
    head_dim: int = 64

    student_hidden: int = 256
    student_layers: int = 8
    student_kv_heads: int = 2
    student_intermediate: int = 768
    student_epochs: float = 40  # in tokens of the training text, written windows counted in
    student_lr: float = 4e-3
    student_decay: float = 0.1
    student_dropout: float = 0.0

    teachers: int = 8
    teacher_hidden: int = 384
    teacher_layers: int = 8
    teacher_kv_heads: int = 2
    teacher_intermediate: int = 1152
    teacher_epochs: float = 14
    teacher_lr: float = 3e-3
    teacher_decay: float = 0.8
    teacher_dropout: float = 0.2

    written_tokens: int = 20_000_000  # by all teachers together; 0: distil on real windows only
    written_share: float = 0.5  # of each batch
    written_prompt: int = 64  # real tokens that begin a written window
    writers: int = 4096  # windows written at a time
    teacher_weight: float = 0.8  # of the teachers' distribution against the text's own next token
