"""Small byte-level BPE tokenizers in the published forms, and what Hugging Face's tokenizers make of hard strings.

The vocabularies are trained on text made here, so that the files can be made again anywhere; the structure around them
(pre-tokenizer, post-processor, decoder, added tokens, BPE options) is that of the published tokenizer.json files.
"""

import json
import os
import random
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PARAGRAPHS = [
    "A quantised model keeps its weights in eight or four bits, and so it reads fewer bytes for every token that it "
    "writes. What it saves in bandwidth it may lose in arithmetic; a benchmark that doesn't measure both can't say which.",
    "We've measured what you'd expect: the weights weren't the bottleneck, they're only the largest part of it. I'm sure "
    "that she'll find another, and he's already looking. It isn't over till it's over, they'd say.",
    "The ship left the harbour before dawn. Nobody had counted the barrels, nobody had asked for the captain's papers, "
    "and when the lighthouse keeper came down the stairs there was nothing left to see but the wake and a few gulls.",
    "DON'T SHOUT, THEY'RE LISTENING. I'LL GO, YOU'VE WON, WE'D BETTER; SHE'S HERE, I'M NOT.",
    "for (int i = 0; i < count; ++i) {\n        total += values[i] * 2;\n\tif (total > 1000) { return -1; }\n}\n",
    "def mean(values):\n    return sum(values) / len(values)\n\n\nclass Reader:\n    def __init__(self, path):\n        "
    "self.path = path\n",
    "In 1984 there were 365 days, 12 months, 52 weeks; 3.14159 is about 22/7, and 1,000,000 is 10^6. 2026-11-23 18:06:09.",
    "Les élèves étaient déjà là, où l'été s'achève. Größe, Straße, Äpfel und Öl. El niño cruzó la calle; ¿dónde está?",
    "Привет, мир! Как дела? Это просто проверка. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया।",
    "你好,世界。这是一个测试。日本語のテキストです。ひらがなとカタカナ。안녕하세요 세계. สวัสดีชาวโลก",
    "Emoji: 😀 😀 👍🏽 ❤️ 🚀 👩‍👩‍👧‍👦 🇩🇪 — “quotes” … and dashes – here.",
]  # fmt: skip

SYLLABLES = "ba ko ri tan mel vor shi lun dra pe qui nor sta ble gar fin the ous ing tion er al on en ly".split()

HARD = [
    "", " ", "  ", "   ", "a", " a", "a ", "\n", "\r", "\r\n", "\n\n", "\t", "\x00", "\x7f",
    "Hello, world!", "Explain quantization in simple terms.", "Hello  world", "Hello   world ", "   leading",
    "trailing   ",
    "tab\tseparated\t\tvalues", "line\nbreak\r\nand\rlone", "\n \n  \n", " \n", "\n ", "a\n\n\nb", "a \n b", "x\r\ry",
    "it's", "IT'S", "It'S", "we're", "WE'RE", "We'Re", "they've", "THEY'VE", "I'm", "I'M", "you'll", "YOU'LL", "he'd",
    "HE'D",
    "don't", "DON'T", "'s", "'S", "''s", "'sam", "'SAM", "'tis", "o'clock", "rock'n'roll", "'ll", "' s", "it’s", "'ſ",
    "'K",
    "1", "12", "123", "1234", "12345", "123456", "1234567890", "3.14159", "1,000,000", "0x1F", "1e-5", "v1.2.3",
    "12abc34",
    "½ ² ³ Ⅷ ①", "١٢٣٤٥", "१२३४", "𝟏𝟐𝟑𝟒", "一二三四", " 42", "  42", "42 ", "-42", "$42", "42%",
    "\u00e9", "e\u0301", "\u00f1", "n\u0303", "\u00c5", "A\u030a", "\u212b", "\uac00", "\u1100\u1161", "\uac01",
    "\u1100\u1161\u11a8", "a\u0323\u0308", "a\u0308\u0323", "q\u0323\u0307", "Z\u0351\u036b\u0343\u034f\u0334A\u0334\u0335\u031c", "\u0300",
    " \u0300", "\u00e0\u0300\u0300",
    "😀", "😀😀", " 😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "❤️", "❤", "🇩🇪🇫🇷", "1️⃣", "🤷🏻‍♀️", "🧑🏿‍🚀 lifts off", "a😀b", "😀\n😀",
    "\U0001f9ff",
    "你好", "你好,世界。", "日本語のテキスト", "カタカナ", "한국어 텍스트", "中文 with English 混合", "全角１２３ＡＢＣ", "　全角空白　", "々〆〇",
    "Привет", "ПРИВЕТ мир", "Γειά σου", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดี", "ኣማርኛ", "ქართული",
    "Հայերեն", "বাংলা", "தமிழ்",
    "\u180e", "a\u180eb", " \u180e ", "\u0085", "a\u0085b", "\u00a0", "a\u00a0b", "\u00a0\u00a0a", " \u00a0", "\u200b",
    "a\u200bb", "\ufeff", "\ufeffabc",
    "\u2028", "a\u2028b", "\u2029", "a\u2029\u2029b", "\u2003wide", "\u202fnarrow", "\u205f", "\u3000", "\x0b", "\x0c",
    "a\x0bb\x0cc", "\x1c\x1d\x1e\x1f", "\x1fa",
    "\u200d", "\u200ca", "\u00ad", "soft\u00adhyphen", "\u2060", "\u202eabc", "\ufffd", "\ufffe", "\uffff",
    "\U0010ffff", "\U000e0001", "\ue000", "\ud7ff", "\x80", "\x9f",
    "_", "__init__", "snake_case_name", "CamelCaseName", "kebab-case", "a.b.c", "a/b/c", "C:\\path\\file",
    "http://example.org/?q=1&r=2#x",
    "foo@bar.example", "#include <vector>", "/* comment */", "// comment", "x = y + z;", "x+=1", "!=", "===", "->",
    "...", "…", "!?!?", "(((", "])}",
    "    indented", "\tindented", "        eight", "\t\tx", " \tx", "\t x", "if x:\n    y\n        z\n",
    "{\n\t\"k\": [1, 2]\n}\n",
    "\"quoted\"", "“curly”", "«guillemets»", "—dash—", "–", "•bullet", "™®©", "€100", "£5", "¥", "∑∫√∞≠", "αβγ", "ℝℂ",
    "ªº", "µm", "ﬁne", "ǅ", "ß", "ẞ", "İi", "ıI",
    "ŉ", "ʼn", "ℵ", "ⅷ", "Ⅷ", "㈠", "㊀", "⑴", "𝒜𝓑", "𐍈", "𓀀", "﷽", "ﷺ",
    "the quick brown fox", "THE QUICK BROWN FOX", " the the the", "supercalifragilisticexpialidocious",
    "antidisestablishmentarianism quantization benchmark",
    " quantization", "quantization", " benchmark benchmarks", "Ġ", "Ġa", "Ċ", "âĢĻ", "Ã©", "ĠĠ", "\\u0041", "%20",
    "&amp;", "<b>", "<|", "|>", "<||>",
    # Letters, marks and digits of Unicode 15, 15.1 and 16, and some that only 17 knows.
    "\u1c89's \u1c89a", "\u1c8a\u1c89", "a\U00031350b", "\U000323af \U0002ebf0", "\U00011f10\U00011f34 \U00011f50",
    "\U00010d50\U00010d70", "1\U00010d40\U00010d49", "\U0001e4d0\U0001e4f0'LL", "\ua7cb\ua7cd", "\U0001ccf0\U0001ccf9!",
    "\u0cf3x", "a\U0001cc00", "\u088fx y", "\ua7ce's", "\U00011de0\U00011de1", "\U000323b0",
]  # fmt: skip

ADDED = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ",
    "<|endoftext|><|endoftext|>",
    "x <|begin_of_text|>y", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there!<|eot_id|>",
    "<|eot_id|", "<|<|eot_id|>|>",
    "<|begin_of_text", "<|BEGIN_OF_TEXT|>", "<left>", " <left>x", "a   <left>   b", "\n\t<left>\n", "<right>",
    "x<right>   y", "<right> \n\t z", "<both>", "a  <both>  b",
    " <both> <both> ", "<right>   <left>", "<right>   <both>   <left>", "<word>", "a <word> b", "a<word>b",
    "a <word>b", "a<word> b", "_<word>_", "é<word>", "<word>é", "1<word>", "-<word>-",
    "<word><word>", "ⓐ<word>", "\u0301<word>", "\u200d<word>", "Ⅷ<word>", "‿<word>", "<word>\u200c", "<right>    x",
    "<right>        x", "    <left>", "         <left> ",
    "<norm>", "a<norm>b", "<norm><left>", "<long>", "<longer>", "<longest>", "<longes>", "a<longestt>",
    "naïve<right>　x", "<right>\u00a0\u0085\u180ex", "\u180e\u3000<left>",
    "<right>  <spaces> ", "word  <spaces>  ", "a" + " " * 2 + "b", "a" + " " * 3 + "b", "a" + " " * 31 + "b",
    "a" + " " * 32 + "b", "a" + " " * 64 + "b", " " * 100, "\t" * 9 + "x", "\t" * 10, "\t" * 3 + " " * 5 + "y",
]  # fmt: skip


def long_strings():
    return [
        "a" * 3000, "ab" * 300, " " * 3000, " " * 599 + "x", "\n" * 300, " \n" * 140, "0" * 400, "!" * 400,
        "é" * 300, "中" * 240,
        "😀" * 140, "\u0301" * 200, "the " * 140, "a " * 200, "\t" * 300, "\u3000" * 160, "it's" * 100, "\r" * 200,
        "tion" * 160,
    ]  # fmt: skip


def random_strings(count, seed):
    """Strings of seeded characters; only characters that Unicode 3.2 knows, so that every regex engine agrees on them."""
    draw = random.Random(seed)
    known = unicodedata.ucd_3_2_0
    ranges = [(0x20, 0x7E), (0x80, 0x24F), (0x300, 0x3FF), (0x400, 0x52F), (0x5D0, 0x6FF),
              (0x900, 0xDFF), (0x1E00, 0x2FFF),
              (0x3000, 0x33FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFEF),
              (0x1D400, 0x1D7FF), (0x20000, 0x2A6D6)]  # fmt: skip
    spaces = [" ", " ", "  ", "   ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085"]
    pieces = ["'s", "'LL", "n't", "123", "7", "<right>", "<left>", "<word>", "<|endoftext|>", "<|eot_id|>",
              " the", "ing", "?!", "...", "_"]  # fmt: skip
    out = []
    for _ in range(count):
        text = ""
        for _ in range(draw.randint(1, 24)):
            kind = draw.random()
            if kind < 0.35:
                low, high = draw.choice(ranges)
                c = chr(draw.randint(low, high))
                text += c if known.category(c) not in ("Cn", "Cs") else "?"
            elif kind < 0.6:
                text += "".join(draw.choice(SYLLABLES) for _ in range(draw.randint(1, 3)))
            elif kind < 0.8:
                text += draw.choice(spaces)
            else:
                text += draw.choice(pieces)
        out.append(text)
    return out


def training_text():
    draw = random.Random(7)
    words = ["".join(draw.choice(SYLLABLES) for _ in range(draw.randint(1, 4))) for _ in range(400)]
    lines = PARAGRAPHS * 8
    for _ in range(600):
        lines.append(" ".join(draw.choice(words) for _ in range(12)).capitalize() + draw.choice([".", "!", "?", ";\n"]))
    return lines


def trained_model(pre_tokenizer, size):
    """-> the JSON of a BPE model trained on training_text with the full byte alphabet; merges as pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    return json.loads(tokenizer.to_str())["model"]


def added(token_id, content, **options):
    token = {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
    return {**token, "normalized": False, "special": True, **options}


def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **options}


def whole(**parts):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, **parts}


def llama3_form():
    """As Llama-3's: Split by regex, byte level, ignore_merges, a template with the first token, merges as strings."""
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_REGEX}, "behavior": "Isolated", "invert": False}
    pre = {"type": "Sequence", "pretokenizers": [split, byte_level(use_regex=False)]}
    trained = Tokenizer.from_str(json.dumps(whole(pre_tokenizer=pre, model={"type": "BPE", "vocab": {}, "merges": []},
                                                  post_processor=None, decoder=None))).pre_tokenizer  # fmt: skip
    model = trained_model(trained, 1400)
    vocab = model["vocab"]
    # Words that no merges lead to: only ignore_merges finds them, as it does with some of Llama-3's.
    for word in ("Ġquantization", "Ġbenchmark", "benchmark", "ä½łå¥½", "ðŁĺĢ", "Ġthethethe"):
        vocab.setdefault(word, len(vocab))
    first = len(vocab)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
             "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]  # fmt: skip
    bos = {"SpecialToken": {"id": names[0], "type_id": 0}}
    a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, a],
        "pair": [bos, a, {"SpecialToken": {"id": names[0], "type_id": 1}}, b],
        "special_tokens": {names[0]: {"id": names[0], "ids": [first], "tokens": [names[0]]}},
    }
    options = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    merges = [" ".join(pair) for pair in model["merges"]]
    return whole(
        added_tokens=[added(first + i, name) for i, name in enumerate(names)],
        pre_tokenizer=pre,
        post_processor={
            "type": "Sequence",
            "processors": [byte_level(add_prefix_space=True, trim_offsets=False), template],
        },
        decoder=byte_level(add_prefix_space=True),
        model={"type": "BPE", **options, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
               "vocab": vocab, "merges": merges},
    )  # fmt: skip


def gpt2_model(size):
    model = trained_model(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), size)
    model["vocab"]["<|endoftext|>"] = len(model["vocab"])
    return model["vocab"], model["merges"]


def phi2_form():
    """As Phi-2's: GPT-2's byte level, runs of whitespace as added tokens, longest first, nothing put before a text."""
    vocab, merges = gpt2_model(1200)
    first = len(vocab)
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    return whole(
        added_tokens=[added(first - 1, "<|endoftext|>")]
        + [added(first + i, run, normalized=True, special=False) for i, run in enumerate(runs)],
        pre_tokenizer=byte_level(),
        post_processor=byte_level(trim_offsets=False),
        decoder=byte_level(add_prefix_space=True),
        model={"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
               "end_of_word_suffix": "", "fuse_unk": False, "vocab": vocab, "merges": [" ".join(p) for p in merges]},
    )  # fmt: skip


def variants_form():
    """What neither has: single digits, a prefix space, pairs as merges, every option of an added token, two specials."""
    vocab, merges = gpt2_model(700)
    first = len(vocab)
    plain = dict(special=False)
    options = [
        ("<left>", dict(lstrip=True, **plain)), ("<right>", dict(rstrip=True, **plain)),
        ("<both>", dict(lstrip=True, rstrip=True)),
        ("<word>", dict(single_word=True, **plain)), ("<norm>", dict(normalized=True, **plain)), ("<long>", plain),
        ("<longest>", plain),
        ("<longer>", dict(normalized=True, **plain)), ("   ", dict(normalized=True, **plain)), ("<spaces> ", plain),
        ("naïve", plain),
    ]  # fmt: skip
    special = lambda name, i: {"SpecialToken": {"id": name, "type_id": i}}
    template = {
        "type": "TemplateProcessing",
        "single": [special("<both>", 0), {"Sequence": {"id": "A", "type_id": 0}}, special("<|endoftext|>", 0)],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<both>": {"id": "<both>", "ids": [first + 2], "tokens": ["<both>"]},
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [first - 1], "tokens": ["<|endoftext|>"]},
        },
    }
    digits = {"type": "Digits", "individual_digits": True}
    return whole(
        added_tokens=[added(first - 1, "<|endoftext|>")] + [added(first + i, c, **o) for i, (c, o) in enumerate(options)],
        pre_tokenizer={"type": "Sequence", "pretokenizers": [digits, byte_level(add_prefix_space=True)]},
        post_processor=template,
        decoder={"type": "Sequence", "decoders": [byte_level()]},
        model={"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
               "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges},
    )  # fmt: skip


def splits():
    """-> cases of the Split pre-tokenizer: every behaviour, both senses, patterns as regex and as string."""
    cases = []
    texts = ["a-b--c", "--a", "b-", "-", "", "abc", "1a22b333c", "é-ü--中", "a\nb\n\nc"]
    for pattern in ({"String": "-"}, {"Regex": r"-+"}, {"Regex": r"\p{L}"}, {"Regex": r"\d{2}|\n"}):
        for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
            for invert in (False, True):
                component = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
                document = whole(pre_tokenizer=component, post_processor=None, decoder=None,
                                 model={"type": "BPE", "vocab": {}, "merges": []})  # fmt: skip
                pre = Tokenizer.from_str(json.dumps(document)).pre_tokenizer
                pieces = [[piece for piece, _ in pre.pre_tokenize_str(text)] for text in texts]
                cases.append({"split": component, "texts": texts, "pieces": pieces})
    for individual in (False, True):
        pre = pre_tokenizers.Digits(individual_digits=individual)
        pieces = [[piece for piece, _ in pre.pre_tokenize_str(text)] for text in texts + ["½12Ⅷ٣x"]]
        component = {"type": "Digits", "individual_digits": individual}
        cases.append({"split": component, "texts": texts + ["½12Ⅷ٣x"], "pieces": pieces})
    return cases


def decodings(tokenizer, size, seed):
    """Sequences of random ids, most of them not valid UTF-8, and their text."""
    draw = random.Random(seed)
    out = []
    for i in range(60):
        ids = [draw.randrange(size) for _ in range(draw.randint(1, 12))]
        if i % 3 == 0:  # single bytes alone
            ids = [tokenizer.token_to_id(c) for c in draw.choices(sorted(pre_tokenizers.ByteLevel.alphabet()), k=6)]
        for skip in (False, True):
            out.append({"ids": ids, "skip_special": skip, "text": tokenizer.decode(ids, skip_special_tokens=skip)})
    return out


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def golden(name, tokenizer, made_by, out):
    """Writes golden.json below out/name: ids and, where it is another, text of every hard string; text of random ids."""
    ordinary = PARAGRAPHS + training_text()[-30:]
    texts = list(dict.fromkeys(HARD + ADDED + ordinary + long_strings() + random_strings(80, seed=11)))
    cases = []
    around = tokenizer.encode("a", add_special_tokens=True).ids
    own = tokenizer.encode("a", add_special_tokens=False).ids
    place = next(i for i in range(len(around)) if around[i : i + len(own)] == own)
    front, back = around[:place], around[place + len(own) :]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=True).ids == front + ids + back, f"{name}: {text!r}"
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        cases.append({"text": text, "ids": ids} | ({} if decoded == text else {"decoded": decoded}))
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    (out / name).mkdir(parents=True, exist_ok=True)
    decode = decodings(tokenizer, size, seed=5)
    dump(out / name / "golden.json", {"made_by": made_by, "special": {"front": front, "back": back}, "encode": cases, "decode": decode})
    used = {i for case in cases for i in case["ids"]}
    print(f"{name}: {size} tokens, {len(cases)} texts using {len(used)} of them")


def write(out, bundled, made_by):
    """out: testdata/tokenizers; bundled: the folder of the bundled model, whose tokenizer.json is only read."""
    for name, make in (("llama3", llama3_form), ("phi2", phi2_form), ("variants", variants_form)):
        document = make()
        path = out / name / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(path))
        for token in document["added_tokens"]:
            assert tokenizer.token_to_id(token["content"]) == token["id"], f"{name}: {token} got another id"
        golden(name, tokenizer, made_by, out)
    golden("bundled", Tokenizer.from_file(str(bundled / "tokenizer.json")), made_by, out)
    dump(out / "splits.json", {"made_by": made_by, "cases": splits()})
    import goldens_sentencepiece

    hard = HARD + ADDED + PARAGRAPHS + random_strings(20, seed=23)
    goldens_sentencepiece.write(out, hard, random.Random(17), made_by)
