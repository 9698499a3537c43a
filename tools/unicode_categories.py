#!/usr/bin/env python3
"""Writes what src/text/ knows of Unicode: unicode_categories.cpp, which characters are of which general category (16.0), and
grapheme_breaks.cpp, how characters join into user-perceived ones (17.0). Each has the version that Hugging Face's tokenizers
0.23 go by.

    tools/unicode_categories.py        writes the files
    tools/unicode_categories.py check  compares the categories with what tokenizers match, character by character

    pip install unicodedata2==16.0.0 regex==2025.11.3 tokenizers==0.23.3
"""

import pathlib
import sys

import regex
import unicodedata2

VERSION = "16.0.0"
PATH = pathlib.Path(__file__).resolve().parent.parent / "src" / "text" / "unicode_categories.cpp"
# Those that patterns of tokenizers name. Of punctuation and symbols none names a part.
NAMES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "P", "S"]
PER_LINE = 10

GRAPHEMES_VERSION = "17.0.0"
GRAPHEMES_PATH = PATH.with_name("grapheme_breaks.cpp")
# By the property's values (UAX 29); the classes that rules GB11 and GB9c add stand beside them. Hangul's syllables follow
# from their number, and regional indicators are one range; linkers are extenders too, and so is the non-joiner.
JOINING = {
    "control": r"\p{GCB=Control}", "linker": r"\p{InCB=Linker}", "non_joiner": "\u200c", "joiner": "\u200d",
    "extend": r"\p{GCB=Extend}", "prepend": r"\p{GCB=Prepend}", "spacing_mark": r"\p{GCB=SpacingMark}",
    "hangul_l": r"\p{GCB=L}", "hangul_v": r"\p{GCB=V}", "hangul_t": r"\p{GCB=T}",
    "pictographic": r"\p{Extended_Pictographic}", "consonant": r"\p{InCB=Consonant}",
}  # fmt: skip


def members(name):
    return [c for c in range(0x110000) if unicodedata2.category(chr(c)).startswith(name)]


def ranges(codes):
    out = []
    for code in codes:
        if out and out[-1][1] == code - 1:
            out[-1][1] = code
        else:
            out.append([code, code])
    return out


def write():
    lines = [
        f"// Made by tools/unicode_categories.py from the Unicode Character Database {VERSION} (DerivedGeneralCategory.txt).",
        '#include "text/unicode_categories.h"',
        "",
        "namespace quantbench {",
        "namespace {",
        "",
        "// clang-format off",
    ]
    for name in NAMES:
        found = [f"{{0x{first:x},0x{last:x}}}" for first, last in ranges(members(name))]
        lines.append(f"constexpr CodePoints k{name}[] = {{")
        lines += [",".join(found[i : i + PER_LINE]) + "," for i in range(0, len(found), PER_LINE)]
        lines.append("};")
    entries = ", ".join(f'{{"{name}", k{name}}}' for name in NAMES)
    lines += [
        f"constexpr UnicodeCategory kCategories[] = {{{entries}}};",
        "// clang-format on",
        "",
        "}  // namespace",
        "",
        "std::span<const UnicodeCategory> unicode_categories() { return kCategories; }",
        "",
        "}  // namespace quantbench",
    ]
    PATH.write_text("\n".join(lines) + "\n")


def write_graphemes():
    of = {}
    for name, pattern in JOINING.items():
        matches = regex.compile(pattern).fullmatch
        for c in range(0x110000):
            if not 0xD800 <= c < 0xE000 and c not in of and matches(chr(c)):
                of[c] = name
    joins = regex.compile(r"\p{InCB=Extend}").fullmatch
    for c, name in of.items():  # what the rule for conjuncts lets stand between consonants, told by the same classes
        assert bool(joins(chr(c))) == (name in ("extend", "joiner")), hex(c)
    entries = []
    for c in sorted(of):
        if entries and entries[-1][1] == c - 1 and entries[-1][2] == of[c]:
            entries[-1][1] = c
        else:
            entries.append([c, c, of[c]])
    found = [f"{{0x{first:x},0x{last:x},{name}}}" for first, last, name in entries]
    lines = [
        f"// Made by tools/unicode_categories.py from the Unicode Character Database {GRAPHEMES_VERSION}",
        "// (GraphemeBreakProperty.txt, emoji-data.txt, DerivedCoreProperties.txt).",
        '#include "text/graphemes.h"',
        "",
        "namespace quantbench {",
        "namespace {",
        "",
        "using enum Joining;",
        "",
        "// clang-format off",
        "constexpr JoiningRange kRanges[] = {",
    ]
    lines += [",".join(found[i : i + PER_LINE]) + "," for i in range(0, len(found), PER_LINE)]
    lines += [
        "};",
        "// clang-format on",
        "",
        "}  // namespace",
        "",
        "std::span<const JoiningRange> joining_ranges() { return kRanges; }",
        "",
        "}  // namespace quantbench",
    ]
    GRAPHEMES_PATH.write_text("\n".join(lines) + "\n")


def check():
    from tokenizers import Regex, pre_tokenizers

    other = 0
    for name in ["L", "M", "N"] + NAMES:
        expected = set(members(name))
        split = pre_tokenizers.Split(Regex(f"\\p{{{name}}}"), "removed", invert=True)
        codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        found = set()
        for at in range(0, len(codes), 4096):
            text = "".join(map(chr, codes[at : at + 4096]))
            found.update(ord(c) for piece, _ in split.pre_tokenize_str(text) for c in piece)
        print(f"\\p{{{name}}}: {len(expected)} characters, {len(expected ^ found)} otherwise in tokenizers")
        other += len(expected ^ found)
    return other == 0


if __name__ == "__main__":
    if unicodedata2.unidata_version != VERSION:
        sys.exit(f"unicode_categories.py: unicodedata2 knows Unicode {unicodedata2.unidata_version}, expected {VERSION}")
    if sys.argv[1:] == ["check"]:
        sys.exit(0 if check() else 1)
    if sys.argv[1:]:
        sys.exit(__doc__)
    write()
    write_graphemes()
