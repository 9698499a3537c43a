#!/usr/bin/env python3
"""Writes testdata/images/: small picture files of every kind that is read, and what Pillow and transformers make of them.

    tools/goldens_images.py

Deterministic with exactly the versions in PINNED. golden.json holds, for each file, the size and the SHA-256 of
`ImageOps.exif_transpose(Image.open(file)).convert("RGB")`; for resizing, seeds of pictures that the test makes again
(synthetic(), the same in src/image/test_synthetic.h) and the SHA-256 of Pillow's bicubic; for SigLIP, the SHA-256 of the
processor's fp32 pixel values, as planes and as patches.
"""

import hashlib
import importlib.metadata
import io
import json
import pathlib
import struct
import sys
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

PINNED = {"pillow": "13.0.0", "transformers": "5.17.0"}
ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "testdata" / "images"


# --- pictures that the test makes again ---------------------------------------------------------------------------


def scrambled(values):
    """A 32-bit hash of each value; in C++ the same two lines."""
    x = values.astype(np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def synthetic(kind, width, height, seed):
    """uint8 [height, width, 3]."""
    index = np.arange(width * height * 3, dtype=np.uint32) + np.uint32((seed * 0x9E3779B9) & 0xFFFFFFFF)
    noise = (scrambled(index) >> np.uint32(24)).astype(np.int64).reshape(height, width, 3)
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    if kind == "noise":
        return noise.astype(np.uint8)
    if kind == "edges":  # bars and boxes in black and white, of sizes that follow the channel
        bars = ((x // (2 + c) + y // (3 + c)) & 1) * 255
        box = ((x * 3 > width) & (x * 3 < 2 * width) & (y * 4 > height)).astype(np.int64)
        return np.where(box == 1, 255 - bars, bars).astype(np.uint8)
    slope = (x * (90 + 40 * c)) // width + (y * (140 - 50 * c)) // height  # "photo": slopes, a disc and grain
    disc = (4 * (x * 2 - width) ** 2 + 4 * (y * 2 - height) ** 2 < min(width, height) ** 2).astype(np.int64)
    return np.clip(slope + 70 * disc * (2 - c) // 2 + noise // 16, 0, 255).astype(np.uint8)


# --- files ---------------------------------------------------------------------------------------------------------


def exif_block(orientation, endian="<", field=3, prefix=b""):
    """An EXIF block whose one tag is the orientation, as a SHORT (3) or LONG (4)."""
    value = struct.pack(endian + ("HH" if field == 3 else "L"), *((orientation, 0) if field == 3 else (orientation,)))
    head = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(endian + "L", 8)
    return prefix + head + struct.pack(endian + "HHHL", 1, 0x0112, field, 1) + value + struct.pack(endian + "L", 0)


def xmp_packet(orientation):
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def saved(picture, form, **options):
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, form, **options)
    return out.getvalue()


def jpegs():
    files = {}
    photo = synthetic("photo", 33, 25, 1)
    exif = b"Exif\0\0"
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        files[f"{name}.jpg"] = saved(photo, "JPEG", quality=85, subsampling=subsampling)
    files["one_pixel.jpg"] = saved(synthetic("noise", 1, 1, 2), "JPEG")
    files["sharp_420.jpg"] = saved(synthetic("edges", 61, 47, 3), "JPEG", quality=30, subsampling=2)
    files["finest.jpg"] = saved(synthetic("noise", 17, 16, 4), "JPEG", quality=100, subsampling=0)
    files["coarsest.jpg"] = saved(synthetic("noise", 31, 9, 5), "JPEG", quality=1)
    files["progressive.jpg"] = saved(photo, "JPEG", quality=70, progressive=True)
    files["progressive_grey.jpg"] = saved(Image.fromarray(photo).convert("L"), "JPEG", progressive=True)
    files["grey.jpg"] = saved(Image.fromarray(photo).convert("L"), "JPEG", quality=60)
    files["restarts.jpg"] = saved(photo, "JPEG", quality=60, restart_marker_blocks=1)
    files["kept_rgb.jpg"] = saved(photo, "JPEG", quality=80, keep_rgb=True)
    inks = np.concatenate([synthetic("photo", 19, 13, 6), synthetic("edges", 19, 13, 7)[..., :1]], axis=2)
    files["cmyk.jpg"] = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=90)
    # The same data, said to be YCCK: Adobe's marker ends with how colours are coded.
    adobe = files["cmyk.jpg"].index(b"Adobe")
    files["ycck.jpg"] = files["cmyk.jpg"][: adobe + 11] + b"\x02" + files["cmyk.jpg"][adobe + 12 :]
    for orientation in range(1, 9):
        block = exif_block(orientation, "<>"[orientation % 2], 3 + orientation // 5)
        files[f"orientation_{orientation}.jpg"] = saved(synthetic("photo", 7, 5, 8), "JPEG", quality=90, exif=exif + block)
    files["orientation_9.jpg"] = saved(synthetic("photo", 7, 5, 8), "JPEG", quality=90, exif=exif + exif_block(9))
    plain = saved(synthetic("photo", 7, 5, 8), "JPEG", quality=90)
    files["orientation_xmp.jpg"] = plain[:2] + app1(b"http://ns.adobe.com/xap/1.0/\0" + xmp_packet(8)) + plain[2:]
    halves = exif_block(6)
    files["exif_in_two.jpg"] = plain[:2] + app1(exif + halves[:11]) + app1(exif + halves[11:]) + plain[2:]
    files["exif_damaged.jpg"] = plain[:2] + app1(exif + b"II*\0\xff\xff\xff\x7f") + plain[2:]
    files["no_end.jpg"] = plain[:-2]
    files["more_behind.jpg"] = plain + b"and more"
    return files


def app1(payload):
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


def png(samples, depth, colour, interlaced=False, before=b"", behind=b""):
    """samples: integers [height, width, channels] of depth bits. Rows go through the five filters in turn."""
    height, width = samples.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = bytearray()
    step = max(1, samples.shape[2] * depth // 8)
    for x0, y0, dx, dy in passes:
        part = samples[y0::dy, x0::dx]
        if part.shape[1] == 0:
            continue
        last = None
        for y, row in enumerate(part):
            if depth == 16:
                line = row.astype(">u2").tobytes()
            elif depth == 8:
                line = row.astype(np.uint8).tobytes()
            else:
                bits = ((row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
                line = np.packbits(bits).tobytes()
            last = last or bytes(len(line))
            raw += bytes([y % 5]) + filtered(line, last, step, y % 5)
            last = line
    data = zlib.compress(bytes(raw), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data[:20]) + chunk(b"IDAT", data[20:]) + behind + chunk(b"IEND", b"")  # fmt: skip


def filtered(line, last, step, kind):
    out = bytearray()
    for i, value in enumerate(line):
        left = line[i - step] if i >= step else 0
        corner = last[i - step] if i >= step else 0
        estimate = left + last[i] - corner
        paeth = min((left, last[i], corner), key=lambda v: abs(estimate - v))
        out.append((value - (0, left, last[i], (left + last[i]) // 2, paeth)[kind]) & 255)
    return bytes(out)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def numbers(width, height, channels, bits, seed):
    index = np.arange(width * height * channels, dtype=np.uint32) + np.uint32(seed * 1000003)
    return (scrambled(index) >> np.uint32(32 - bits)).astype(np.int64).reshape(height, width, channels)


def pngs():
    files = {}
    palette = chunk(b"PLTE", numbers(16, 1, 3, 8, 9).astype(np.uint8).tobytes())
    full_palette = chunk(b"PLTE", numbers(256, 1, 3, 8, 10).astype(np.uint8).tobytes())
    for depth in (1, 2, 4, 8):
        files[f"grey_{depth}.png"] = png(numbers(13, 9, 1, depth, 11), depth, 0)
        part = palette if depth < 8 else full_palette
        part = chunk(b"PLTE", part[8 : 8 + 3 * 2**depth]) if depth < 4 else part
        files[f"palette_{depth}.png"] = png(numbers(13, 9, 1, depth, 12), depth, 3, before=part)
    # 16 bits of grey, most of them below 256, since what is above turns white.
    deep = numbers(13, 9, 1, 16, 13) >> np.arange(13).reshape(1, 13, 1)
    files["grey_16.png"] = png(deep, 16, 0)
    files["grey_16_interlaced.png"] = png(deep, 16, 0, interlaced=True)
    files["palette_transparent.png"] = png(numbers(13, 9, 1, 4, 14), 4, 3, before=palette + chunk(b"tRNS", bytes([0, 128, 255])))
    files["palette_one_transparent.png"] = png(numbers(13, 9, 1, 4, 14), 4, 3, before=palette + chunk(b"tRNS", b"\xff\xff\0"))
    files["palette_too_short.png"] = png(numbers(13, 9, 1, 8, 15), 8, 3, before=palette)
    files["grey_transparent.png"] = png(numbers(5, 4, 1, 8, 16), 8, 0, before=chunk(b"tRNS", b"\0\x80"))
    files["rgb_transparent.png"] = png(numbers(5, 4, 3, 8, 17), 8, 2, before=chunk(b"tRNS", b"\0\x80\0\x80\0\x80"))
    for name, colour, channels in (("grey_alpha", 4, 2), ("rgb", 2, 3), ("rgba", 6, 4)):
        for depth in (8, 16):
            files[f"{name}_{depth}.png"] = png(numbers(11, 10, channels, depth, 18), depth, colour)
            files[f"{name}_{depth}_interlaced.png"] = png(numbers(11, 10, channels, depth, 19), depth, colour, interlaced=True)
    files["grey_1_interlaced.png"] = png(numbers(13, 9, 1, 1, 20), 1, 0, interlaced=True)
    files["palette_4_interlaced.png"] = png(numbers(3, 2, 1, 4, 21), 4, 3, interlaced=True, before=palette)
    gamma = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"sRGB", b"\0")
    files["gamma.png"] = png(numbers(5, 4, 3, 8, 22), 8, 2, before=gamma)
    photo = synthetic("photo", 7, 5, 23).astype(np.int64)
    files["exif.png"] = png(photo, 8, 2, before=chunk(b"eXIf", exif_block(6, ">")))
    files["exif_behind.png"] = png(photo, 8, 2, behind=chunk(b"eXIf", exif_block(5)))
    files["exif_text.png"] = png(photo, 8, 2, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      32\n" + exif_block(8, prefix=b"Exif\0\0").hex(" ", 20).replace(" ", "\n").encode() + b"\n")))  # fmt: skip
    files["xmp.png"] = png(photo, 8, 2, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_packet(7)))
    first = b"\0\0\0\0" + struct.pack(">IIIIHHBB", 7, 5, 0, 0, 1, 10, 0, 0)
    second = b"\0\0\0\1" + struct.pack(">IIIIHHBB", 7, 5, 0, 0, 1, 10, 0, 0)
    other = b"\0\0\0\2" + zlib.compress(bytes(5 * (1 + 7 * 3)))
    files["animated.png"] = png(photo, 8, 2, before=chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", first),
                                behind=chunk(b"fcTL", second) + chunk(b"fdAT", other))  # fmt: skip
    return files


def webps():
    files = {}
    photo = synthetic("photo", 33, 25, 24)
    clear = np.concatenate([synthetic("photo", 21, 15, 25), synthetic("noise", 21, 15, 26)[..., :1]], axis=2)
    files["lossy.webp"] = saved(photo, "WEBP", quality=80)
    files["lossy_sharp.webp"] = saved(synthetic("edges", 19, 17, 27), "WEBP", quality=20)
    files["lossless.webp"] = saved(photo[:9, :11], "WEBP", lossless=True)
    files["lossy_alpha.webp"] = saved(clear, "WEBP", quality=80)
    files["lossless_alpha.webp"] = saved(clear[:7, :9], "WEBP", lossless=True, exact=True)
    files["exif.webp"] = saved(photo[:5, :7], "WEBP", quality=90, exif=exif_block(6))
    files["exif_prefixed.webp"] = saved(photo[:5, :7], "WEBP", quality=90, exif=exif_block(7, ">", prefix=b"Exif\0\0"))
    files["xmp.webp"] = saved(photo[:5, :7], "WEBP", quality=90, xmp=xmp_packet(3))
    frames = [Image.fromarray(clear), Image.fromarray(clear[::-1, ::-1])]
    animated = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=80)
    files["animated.webp"] = animated
    # Its first frame moved to the right and down on a larger canvas; places count in twos.
    width, height = struct.unpack("<HxH", animated[24:29])
    larger = bytearray(animated)
    larger[24:30] = (width + 9).to_bytes(3, "little") + (height + 7).to_bytes(3, "little")
    frame = animated.index(b"ANMF") + 8
    larger[frame : frame + 6] = (3).to_bytes(3, "little") + (2).to_bytes(3, "little")
    files["animated_offset.webp"] = bytes(larger)
    return files


# --- what is expected -----------------------------------------------------------------------------------------------


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def expected(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transparency of palettes, damaged EXIF
        rgb = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    return {"width": rgb.shape[1], "height": rgb.shape[0], "sha256": sha256(rgb)}


RESIZES = [
    (61, 47, 224, 224), (640, 480, 224, 224), (480, 641, 224, 224), (1, 1, 224, 224), (2, 3, 224, 224), (224, 224, 224, 224),
    (224, 37, 224, 224), (37, 224, 224, 224), (223, 225, 224, 224), (450, 449, 224, 224), (1000, 1, 224, 224),
    (1, 1000, 224, 224), (61, 47, 448, 448), (640, 480, 448, 448), (897, 10, 448, 448), (224, 224, 448, 448), (5, 4, 3, 2),
    (97, 89, 31, 130), (300, 200, 1, 1), (310, 1158, 224, 224), (402, 648, 224, 224),
    # One pixel of height to either side of where Pillow 13 turns the passes round.
    (448, 672, 224, 224), (448, 673, 224, 224), (300, 376, 224, 224), (300, 377, 224, 224), (100, 225, 224, 224),
]  # fmt: skip


def resizes():
    cases = []
    for seed, (width, height, to_width, to_height) in enumerate(RESIZES):
        for kind in ("noise", "edges", "photo"):
            resized = Image.fromarray(synthetic(kind, width, height, seed)).resize((to_width, to_height), Image.Resampling.BICUBIC)
            cases.append({"kind": kind, "seed": seed, "width": width, "height": height, "to_width": to_width,
                          "to_height": to_height, "sha256": sha256(np.asarray(resized))})  # fmt: skip
    return cases


def siglip():
    """What the processor makes of noise (every byte is in it) from another size, as planes and as patches of 14."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    cases = []
    for size, width, height in ((224, 64, 48), (448, 100, 75)):
        picture = synthetic("noise", width, height, size)
        processor = SiglipImageProcessorPil(size={"height": size, "width": size})
        planes = np.asarray(processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0])
        assert planes.dtype == np.float32 and planes.shape == (3, size, size)
        grid = size // 14
        patches = planes.reshape(3, grid, 14, grid, 14).transpose(1, 3, 0, 2, 4)
        cases.append({"size": size, "width": width, "height": height, "seed": size, "planes": sha256(planes), "patches": sha256(patches)})
    return cases


def main():
    for package, wanted in PINNED.items():
        found = importlib.metadata.version(package)
        if found != wanted:
            sys.exit(f"goldens_images.py: {package} is {found}, the goldens are defined by {wanted}; install that version")
    FOLDER.mkdir(exist_ok=True)
    files = {**jpegs(), **pngs(), **webps()}
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)
    golden = {
        "made_by": ", ".join(f"{package} {version}" for package, version in PINNED.items()),
        "files": [{"file": name, **expected(content)} for name, content in files.items()],
        "sample": expected((ROOT / "models" / "sample.jpg").read_bytes()),
        "resizes": resizes(),
        "siglip": siglip(),
    }
    parts = [f'"{key}":' + (f"[\n{rows(value)}]" if isinstance(value, list) else json.dumps(value)) for key, value in golden.items()]
    (FOLDER / "golden.json").write_text("{" + ",\n".join(parts) + "}\n")
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes; {len(golden['resizes'])} resizes")


def rows(values):
    return ",\n".join(json.dumps(value, separators=(",", ":")) for value in values)


if __name__ == "__main__":
    main()
