#!/usr/bin/env python3
"""Writes src/text/unicode_categories.cpp: which characters are of which general category of Unicode 16.0.

    tools/unicode_categories.py        writes the file
    tools/unicode_categories.py check  compares it with what Hugging Face's tokenizers match, character by character

    pip install unicodedata2==16.0.0 tokenizers==0.23.3
"""

import pathlib
import sys

import unicodedata2

VERSION = "16.0.0"
PATH = pathlib.Path(__file__).resolve().parent.parent / "src" / "text" / "unicode_categories.cpp"
# Those that patterns of tokenizers name. Of punctuation and symbols none names a part.
NAMES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "P", "S"]
PER_LINE = 10


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
