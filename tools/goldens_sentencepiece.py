"""Small tokenizers in the published forms of Flan-T5 and PaliGemma, and what Hugging Face's tokenizers and sentencepiece make
of hard strings.

Both are trained by sentencepiece on the text of goldens_tokenizers.py and kept twice: as its model, and as a tokenizer.json
built round the same pieces as the published files are. T5's charsmap here has a few dozen rules, one for each thing that the
published one, of 240 kB, does to a text.

    pip install sentencepiece==0.2.3 protobuf
"""

import base64
import json
import pathlib
import tempfile

import sentencepiece
from tokenizers import Tokenizer
from transformers.utils import sentencepiece_model_pb2_new as model_pb2

SENTENCEPIECE = "0.2.3"

# Of NFKC and what sentencepiece adds to it: joined letters, full and half width, marks, circled and small forms, spaces, what
# falls away, and replacements that begin others.
CHARSMAP = {
    "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\u01c4": "D\u017d", "\u0149": "\u02bcn", "\u00aa": "a", "\u00b5": "\u03bc",
    "\uff21": "A", "\uff22": "B", "\uff23": "C", "\uff11": "1", "\uff12": "2", "\uff01": "!", "\uff5e": "~",
    "\uff76": "\u30ab", "\uff76\uff9e": "\u30ac", "\uff8a": "\u30cf", "\uff8a\uff9f": "\u30d1", "\uff9e": "\u3099",
    "e\u0301": "\u00e9", "A\u030a": "\u00c5", "n\u0303": "\u00f1", "\u212b": "\u00c5", "\u0344": "\u0308\u0301",
    "\u1100\u1161": "\uac00", "\u1100\u1161\u11a8": "\uac01", "\u2460": "1", "\u2167": "VIII", "\u00bd": "1\u20442",
    "\u2122": "TM", "\u210c": "H", "\u33c2": "a.m.", "\ufdfa": "\u0635\u0644\u0649 \u0627\u0644\u0644\u0647", "\u2026": "...",
    "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": " ", "\ufeff": "",
    "\u00ad": "", "\u200d": " ", "\x7f": "", "\u0958": "\u0915\u093c", "\U0001d400": "A", "\U0001f1e6": "a",
}  # fmt: skip

EVERY = 5  # of how many texts one is tried with each variant of the document
FEW_BYTES = ["<0xEA>", "<0x99>", "<0xAE>", "<0xF0>", "<0xC2>", "<0xBF>"]

MORE = [
    "▁", "▁▁", "a▁b", "▁a", " ▁ a", "a ▁", "<0x0A>", "<0x41>b", "<unk>", "a<unk>b", "<pad>", "</s>", "x</s>", " </s> y",
    "<bos>", "<eos> a", "<extra_id_0>", "a <extra_id_99> b", "<extra_id_100>", "<extra_id_1><extra_id_2>", "<extra_id_01>",
    "<image>", "<image><image><bos>caption en\n", "<loc0003>", "<loc0002><loc0001> cat", "<seg001>", "<loc0008>", "<mask>",
    "what is on the flower?\n", "detect cat ; dog\n", "\n\n", "\n\n\n\n\n", "a\n\n\n\n\n\n\nb", " " * 2, " " * 5, " " * 40, "a" + " " * 17 + "b",
    "ﬁ", "ﬁ\u0301", "ﬁ\u0301\u0301", "oﬃce ﬂow", "ＡＢＣ１２！", "Ａ\u0301", "ｶﾞｷﾞ", "ｶ\uff9e", "ﾊﾟﾊ", "ｶ\u3099", "e\u0301", "e\u0301\u0323",
    "e\u0323\u0301", "n\u0303o", "A\u030aB", "가", "각", "각\u0301", "①②", "①\u0301", "½", "™", "™\u200d™\u0301", "©\u200d©\u0301", "ﷺ",
    "…", "…\u0301", "\u200b\u0301", "a\u00ad\u0301b", "\ufeffa", "\r\na\r\n", "\r\n\u0301", "\r\u0301", "\u0600ﬁ", "क़", "क्क़\u0301", "𝐀𝐀\u0301",
    "🇦🇧🇦", "🇦", "\x00a", "a\x00b", "\u3000全角\u3000", "unknown: ꙮ𒀀", "ꙮ", "ꙮꙮ a ꙮ", "a𒀀b", "𒀀𒀁𒀂", "ꙮa", "🜚🜛x",
    "\ue000\U000f0000", "¿¡", "𠀀𠀁", "naïve café Zürich", "don't shout", "  two  spaces  ", "end ", "\u0301", "\u0301\u0301a", "a \u0301",
]  # fmt: skip


def train(lines, tsv=None, **options):
    """-> the ModelProto that sentencepiece trains on the lines."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "text").write_text("\n".join(line.replace("\n", " ") for line in lines))
        if tsv:
            codes = lambda text: " ".join(f"{ord(c):X}" for c in text)
            (folder / "tsv").write_text("".join(f"{codes(a)}\t{codes(b)}\n" for a, b in tsv.items()))
            options["normalization_rule_tsv"] = str(folder / "tsv")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"), model_prefix=str(folder / "m"), minloglevel=2, num_threads=1, **options)  # fmt: skip
        model = model_pb2.ModelProto()
        model.ParseFromString((folder / "m.model").read_bytes())
    # What only training needs, paths among it.
    for name in ("input", "model_prefix"):
        model.trainer_spec.ClearField(name)
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    return model


def token(token_id, content, special=True, normalized=False):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": special}  # fmt: skip


def template(before, after):
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special(n) for n, _ in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [special(n) for n, _ in after],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in before + after},
    }


def t5(lines):
    """As google/flan-t5-base: spiece.model, and the tokenizer.json that the first converters made of it."""
    model = train(
        lines, tsv=CHARSMAP, model_type="unigram", vocab_size=600, character_coverage=0.985, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)  # fmt: skip
    pieces = [[p.piece, p.score] for p in model.pieces] + [[f"<extra_id_{i}>", 0.0] for i in range(99, -1, -1)]
    metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [token(i, pieces[i][0]) for i in [0, 1, 2, *range(len(model.pieces), len(pieces))]],
        "normalizer": {"type": "Precompiled",
                       "precompiled_charsmap": base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": template([], [("</s>", 1)]),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces},
    }  # fmt: skip
    new = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    replace = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    sequence = lambda key, *parts: {"type": "Sequence", key: [*parts]}
    variants = [
        # transformers 5's T5Tokenizer, and converters before it.
        {"pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, new), "decoder": new},
        {"normalizer": sequence("normalizers", document["normalizer"], strip, replace), "pre_tokenizer": new, "decoder": new},
        # What those lack.
        {"normalizer": None, "pre_tokenizer": {**new, "prepend_scheme": "first", "split": False},
         "decoder": {**new, "prepend_scheme": "first"}},
        {"normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, {**replace, "pattern": {"String": " "}}),
         "pre_tokenizer": None, "decoder": {**new, "prepend_scheme": "never"}},
        {"normalizer": {**strip, "strip_left": True}, "pre_tokenizer": {**new, "prepend_scheme": "never"},
         "decoder": {"type": "Sequence", "decoders": [{**replace, "pattern": {"String": "▁"}, "content": " "}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}},
    ]  # fmt: skip
    return model, document, variants


def merges_of(pieces):
    """As transformers lists the merges of a model of sentencepiece: the ways to cut each piece in two, by id of the whole."""
    merges = []
    for piece in pieces:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in pieces and piece[at:] in pieces]
        cuts.sort(key=lambda cut: (pieces[cut[0]], pieces[cut[1]]))
        merges += [[left, right, pieces[piece]] for left, right in cuts]
    return [cut[:2] for cut in sorted(merges, key=lambda cut: cut[2])]


def gemma(lines):
    """As google/paligemma-3b-pt-224: tokenizer.model, and the tokenizer.json that has <image>, <locNNNN> and <segNNN> too."""
    runs = ["\n" * n for n in range(1, 6)] + ["▁" * n for n in range(2, 8)]
    names = ["<mask>", "<2mass>", "[@BOS@]"] + [f"<unused{i}>" for i in range(3)]
    model = train(
        lines, model_type="bpe", vocab_size=700, byte_fallback=True, character_coverage=0.985, split_digits=True,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", user_defined_symbols=names + runs)  # fmt: skip
    pieces = {p.piece: i for i, p in enumerate(model.pieces)}
    first = len(pieces)
    image = token(first, "<image>")
    plain = [f"<loc{i:04}>" for i in range(8)] + [f"<seg{i:03}>" for i in range(4)]
    added = [token(i, name) for name, i in list(pieces.items())[:4]]
    added += [token(pieces[name], name, special=False) for name in names + runs]
    added += [image] + [token(first + 1 + i, name, special=False, normalized=True) for i, name in enumerate(plain)]
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": template([("<bos>", 2)], []),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": pieces,
                  "merges": [" ".join(m) for m in merges_of(pieces)]},
    }  # fmt: skip
    # Without most of the bytes, so that some characters fall back to bytes and others to the unknown token.
    few = {t if t in FEW_BYTES else t.replace("<0x", "[0x"): i for t, i in pieces.items()}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    variants = [
        {"pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": [*document["decoder"]["decoders"], strip]}},
        {"model": {**document["model"], "byte_fallback": False}},
        {"model": {**document["model"], "fuse_unk": False, "byte_fallback": False, "ignore_merges": True}},
        {"model": {**document["model"], "unk_token": None, "byte_fallback": False}},
        {"model": {**document["model"], "vocab": few}},
    ]  # fmt: skip
    # What lies beside the model: transformers' own list of all that was added.
    eos = {k: v for k, v in token(1, "<eos>").items() if k != "id"}
    config = {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
        "eos_token": {"__type": "AddedToken", **eos}, "additional_special_tokens": ["<image>"],
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
    }  # fmt: skip
    return model, document, variants, config


class Slow:
    """A model of sentencepiece as transformers' tokenizers of sentencepiece use it: added tokens are cut out of the text as it
    is, each part between them is encoded alone."""

    def __init__(self, model, added):
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        self.added = dict(sorted(((t["content"], t["id"]) for t in added), key=lambda entry: -len(entry[0])))

    def encode(self, text):
        ids, begin, at = [], 0, 0
        while at < len(text):
            found = next((name for name in self.added if text.startswith(name, at)), None)
            if found is None:
                at += 1
                continue
            ids += self.processor.encode(text[begin:at]) + [self.added[found]]
            begin = at = at + len(found)
        return ids + self.processor.encode(text[begin:])


def write(out, texts, draw, made_by):
    """out: testdata/tokenizers. texts: hard strings, to which those of this file are added."""
    import goldens_tokenizers as common

    if sentencepiece.__version__ != SENTENCEPIECE:
        raise SystemExit(f"goldens_sentencepiece.py: sentencepiece {sentencepiece.__version__}, expected {SENTENCEPIECE}")
    texts = list(dict.fromkeys(MORE + texts))
    common.dump(out / "hard_texts.json", texts)
    lines = common.training_text()
    t5_model, t5_json, t5_variants = t5(lines)
    gemma_model, gemma_json, gemma_variants, config = gemma(lines)
    for name, file, model, document, variants, added in (
        ("t5", "spiece.model", t5_model, t5_json, t5_variants, t5_json["added_tokens"]),
        ("gemma", "tokenizer.model", gemma_model, gemma_json, gemma_variants, gemma_json["added_tokens"]),
    ):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(
            json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")  # fmt: skip
        (folder / file).write_bytes(model.SerializeToString())
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for entry in document["added_tokens"]:
            assert tokenizer.token_to_id(entry["content"]) == entry["id"], f"{name}: {entry} got another id"
        encode = lambda t, text: t.encode(text, add_special_tokens=False).ids
        ids = [encode(tokenizer, text) for text in texts]
        slow = Slow(model, added)
        decoded = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
        from_model = {str(i): found for i, text in enumerate(texts) if (found := slow.encode(text)) != ids[i]}
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        decode = []
        for i in range(60):  # random ids; every third time bytes, or what stands for such
            low, high = (4, 260) if i % 3 == 0 else (0, size)
            decode.append([draw.randrange(low, min(high, size)) for _ in range(draw.randint(1, 12))])
        golden = {
            "made_by": f"{made_by}, sentencepiece {SENTENCEPIECE}",
            "special": {"text": "a", "ids": tokenizer.encode("a").ids},
            "ids": ids,
            "from_model": from_model,
            "decoded": {str(i): text for i, text in enumerate(decoded) if text != texts[i]},
            "decode": [{"ids": i, "text": tokenizer.decode(i, skip_special_tokens=False),
                        "skipped": tokenizer.decode(i, skip_special_tokens=True)} for i in decode],
            "variants": [],
        }  # fmt: skip
        for variant in variants:
            other = Tokenizer.from_str(json.dumps({**document, **variant}))
            some = range(0, len(texts), EVERY)
            found = {str(i): here for i in some if (here := encode(other, texts[i])) != ids[i]}
            otherwise = {str(i): here for i in some if (here := other.decode(ids[i], skip_special_tokens=False)) != decoded[i]}
            if "model" in variant:  # what it changes alone
                model_change = {k: v for k, v in variant["model"].items() if v != document["model"][k]}
                if "vocab" in model_change:
                    model_change["vocab"] = "all bytes but " + " ".join(FEW_BYTES)
                variant = {"model": model_change}
            golden["variants"].append({"change": variant, "every": EVERY, "ids": found, "decoded": otherwise})
        common.dump(folder / "golden.json", golden)
        if name == "gemma":
            common.dump(folder / "tokenizer_config.json", config)
        used = {i for row in ids for i in row}
        print(f"{name}: {size} tokens, {len(texts)} texts using {len(used)} of them, {len(from_model)} otherwise by {file}, "
              f"variants change {[len(v['ids']) for v in golden['variants']]}")  # fmt: skip
