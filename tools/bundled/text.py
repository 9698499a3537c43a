"""The training texts of the bundled model: typography, wrapping, tokenizer, token streams."""

import dataclasses
import random
import re
from multiprocessing import Pool
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bundled.settings import Settings

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def plain_typography(text: str) -> str:
    """One typography for all books, the one that people type: straight quotes, -- for dashes."""
    text = text.replace("\r\n", "\n").replace("\ufeff", "")
    if text.count("‘") > 4 * text.count("“"):  # British: speech in single quotes, double inside
        text = text.replace("“", "'").replace("”", "'").replace("‘", '"')
        text = re.sub(r"(?<=[.,!?;:)\-—])’(?=\s|$|-|—|\))", '"', text)
    for curly, plain in {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "…": "...", "_": ""}.items():
        text = text.replace(curly, plain)
    text = re.sub(r"(?<=\S) {2,}", " ", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n"


def split_book(text: str, held_out: float) -> tuple[str, str]:
    """(training part, held-out slice): the slice is whole paragraphs from the middle of the book."""
    paragraphs = re.split(r"(?<=\n\n)(?=[^\n])", text)
    ends, position = [], 0
    for paragraph in paragraphs:
        position += len(paragraph)
        ends.append(position)
    first = next(i for i, end in enumerate(ends) if end >= position / 2)
    last = next(i for i, end in enumerate(ends) if end >= position * (0.5 + held_out))
    return "".join(paragraphs[:first] + paragraphs[last:]), "".join(paragraphs[first:last])


def rewrap(text: str, width: int) -> str:
    """Prose paragraphs filled to another line width; verse, plays and tables stay as they are."""

    def fill(paragraph: str) -> str:
        lines = paragraph.rstrip("\n").split("\n")
        if len(lines) < 2 or any(len(line) < 45 for line in lines[:-1]) or paragraph[0] == " ":
            return paragraph
        tail = paragraph[len(paragraph.rstrip("\n")):]
        filled, line = [], ""
        for word in " ".join(lines).split(" "):
            if line and len(line) + 1 + len(word) > width:
                filled.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        return "\n".join(filled + [line]) + tail

    return "".join(fill(p) for p in re.split(r"(?<=\n\n)(?=[^\n])", text))


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE laid out as Llama-3's tokenizer.json: the two special tokens come last."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary - 2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([BEGIN, END])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1",
            special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]),
    ])
    assert tokenizer.get_vocab_size() == vocabulary
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of the text without special tokens; cut at blank lines so that all cores can help."""
    pieces = re.split(r"(?<=\n\n)(?=[^\s])", text)
    pieces = ["".join(pieces[i:i + 50]) for i in range(0, len(pieces), 50)]
    return [i for e in tokenizer.encode_batch(pieces, add_special_tokens=False) for i in e.ids]


def overlaps(book: str, validation: str) -> bool:
    """Whether a book holds a paragraph of the validation text that is too long to be there by chance."""
    paragraphs = [p.strip() for p in re.split(r"\n\n+", plain_typography(validation)) if len(p.strip()) > 200]
    return any(p in book for p in paragraphs)


@dataclasses.dataclass
class Corpus:
    tokenizer: Tokenizer
    streams: list[torch.Tensor]  # one [tokens] int64 a wrapping, books joined by END
    held_out: list[torch.Tensor]  # one [tokens] int64 a book
    validation: torch.Tensor  # [tokens] int64
    validation_bytes: int
    begin: int  # id of BEGIN


def read_corpus(folder: Path, validation_file: Path, settings: Settings, device: str) -> Corpus:
    """Every *.txt of the folder is training text but the validation text, whatever the file is called there."""
    files = sorted(f for f in folder.glob("*.txt") if f.name != validation_file.name)
    if not files or not validation_file.is_file():
        raise SystemExit(f"{folder}: {len(files)} training texts (*.txt), expected at least one; "
                         f"validation text {validation_file}: {'found' if validation_file.is_file() else 'missing'}")
    books = [plain_typography(f.read_text(encoding="utf-8")) for f in files]
    kept = [book for book in books if not overlaps(book, validation_file.read_text(encoding="utf-8"))]
    print(f"{len(books) - len(kept)} of {len(books)} texts left out because they share paragraphs with the validation text")
    books = kept
    training, held_out = zip(*(split_book(book, settings.held_out) for book in books))
    tokenizer = train_tokenizer(list(training), settings.vocabulary)
    rng = random.Random(settings.seed)
    jobs = [(book, rng.randint(56, 80)) for _ in range(settings.wrappings - 1) for book in training]
    with Pool() as pool:
        wrapped = pool.starmap(rewrap, jobs, chunksize=1)
    versions = [list(training)] + [wrapped[i:i + len(books)] for i in range(0, len(wrapped), len(books))]
    end = tokenizer.token_to_id(END)
    validation = validation_file.read_text(encoding="utf-8")
    to_tensor = lambda ids: torch.tensor(ids, dtype=torch.int64, device=device)
    corpus = Corpus(
        tokenizer,
        [to_tensor([i for book in version for i in encode(tokenizer, book) + [end]]) for version in versions],
        [to_tensor(encode(tokenizer, text)) for text in held_out],
        to_tensor(tokenizer.encode(validation, add_special_tokens=False).ids),
        len(validation.encode()), tokenizer.token_to_id(BEGIN))
    print(f"{len(books)} books, {sum(len(b.encode()) for b in training)} bytes, "
          f"{len(corpus.streams[0])} training tokens in each of {settings.wrappings} wrappings, "
          f"{sum(map(len, corpus.held_out))} held out, {len(corpus.validation)} validation tokens "
          f"({corpus.validation_bytes / len(corpus.validation):.3f} bytes a token)", flush=True)
    return corpus
