#!/usr/bin/env python3
"""Draws models/sample.jpg, the picture that a vision model is shown when none is named: a red barn on a meadow by a lake,
a tree, hills and a low sun. All of it is made here, from shapes and seeded noise, so it is under this project's licence.

    tools/draw_sample_picture.py [--scale N] [OUTPUT]     N = 1: 640×480; larger pictures are for timing (6.25: 4000×3000)

Needs Pillow and NumPy; the file in the tree was written by Pillow 13.0.0.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SEED = 7
WIDTH, HEIGHT = 640, 480


class Scene:
    def __init__(self, scale):
        self.width, self.height = round(WIDTH * scale), round(HEIGHT * scale)
        self.scale = self.width / WIDTH
        self.rng = np.random.default_rng(SEED)
        self.y, self.x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32) / np.float32(self.scale)
        self.picture = np.zeros((self.height, self.width, 3), np.float32)

    def noise(self, cell, stretch=1.0):
        """Smooth noise in [-1, 1] whose bumps are `cell` pixels of the small picture high and stretch × cell wide."""
        rows, cols = int(HEIGHT / cell) + 3, int(WIDTH / (cell * stretch)) + 3
        grid = Image.fromarray(self.rng.uniform(-1, 1, (rows, cols)).astype(np.float32))
        size = (round(self.width * cols * cell * stretch / WIDTH), round(self.height * rows * cell / HEIGHT))
        return np.asarray(grid.resize(size, Image.Resampling.BICUBIC))[: self.height, : self.width]

    def rough(self, cell, octaves, stretch=1.0):
        return sum(self.noise(cell / 2**i, stretch) / 2**i for i in range(octaves))

    def mask(self, draw_shape, blur=0.6):
        """How much of each pixel the shape covers, with soft edges as a lens makes them."""
        image = Image.new("L", (self.width, self.height))
        draw_shape(ImageDraw.Draw(image))
        return np.asarray(image.filter(ImageFilter.GaussianBlur(blur * self.scale)), np.float32)[..., None] / 255

    def polygon(self, points, blur=0.6):
        return self.mask(lambda draw: draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=255), blur)

    def paint(self, cover, colour):
        self.picture += cover * (np.asarray(colour, np.float32) - self.picture)

    def shade(self, colour, *terms):
        """colour plus each (field, weight of red, of green, of blue)."""
        out = np.broadcast_to(np.asarray(colour, np.float32), self.picture.shape).copy()
        for field, *weights in terms:
            out += field[..., None] * np.asarray(weights, np.float32)
        return out

    def sky(self):
        depth = np.clip(self.y / 250, 0, 1)[..., None]
        self.picture[:] = (1 - depth) * np.float32([86, 138, 205]) + depth * np.float32([246, 214, 170])
        distance = np.hypot(self.x - 505, self.y - 92)
        glow = np.exp(-distance / 75)[..., None]
        self.picture += glow * np.float32([120, 90, 20])
        self.paint(np.clip((27 - distance) / 3, 0, 1)[..., None], (255, 248, 215))
        clouds = np.clip(self.rough(70, 5, 2.6) + 0.25 - np.abs(self.y - 110) / 110, 0, 1)[..., None]
        self.paint(0.8 * clouds, (252, 240, 230))

    def hills(self):
        for base, height, cell, colour, haze in (
            (216, 46, 150, (122, 142, 168), 3),
            (236, 34, 110, (94, 128, 118), 6),
            (252, 22, 80, (72, 116, 70), 9),
        ):
            ridge = base - height * self.noise(cell, 1.4)[0] - 4 * self.noise(14)[0]
            cover = np.clip((self.y - ridge[None, :]) * self.scale, 0, 1)[..., None]
            self.paint(cover, self.shade(colour, (self.rough(24, 4), haze, haze * 1.2, haze * 0.8)))

    def meadow(self):
        edge = 268 + 5 * self.noise(90)[0]
        cover = np.clip((self.y - edge[None, :]) * self.scale, 0, 1)[..., None]
        near = np.clip((self.y - 268) / 212, 0, 1)
        grass = self.shade((128, 156, 62), (near, -58, -48, -28), (self.rough(26, 5, 1.5), 16, 18, 8), (self.noise(2.2, 0.5), 13, 15, 8))
        self.paint(cover, grass)

    def lake(self):
        outline = [(640, 330), (560, 318), (470, 322), (395, 336), (350, 358), (372, 384), (452, 402), (560, 412), (640, 410)]
        self.paint(self.polygon([(x + 3, y + 5) for x, y in outline], 2.5), (92, 96, 58))
        depth = np.clip((self.y - 318) / 94, 0, 1)
        ripples = self.rough(5, 3, 7)
        water = self.shade((214, 206, 184), (depth, -124, -92, -34), (ripples, 14, 14, 13))
        glitter = np.exp(-np.abs(self.x - 505) / 26) * np.clip(ripples + 0.35, 0, 1)
        water += glitter[..., None] * np.float32([78, 66, 34])
        self.paint(self.polygon(outline, 1.2), water)

    def barn(self):
        # The shadow first: the sun is behind it on the right, so it falls to the front on the left.
        self.paint(0.5 * self.polygon([(120, 352), (276, 360), (216, 398), (42, 384)], 3), (38, 52, 22))
        boards = np.where((self.x % 7) < 1.1, -20, 0) + 7 * self.rough(30, 4, 0.4)
        red = self.shade((158, 40, 34), (boards, 1, 0.6, 0.6), (np.clip((self.y - 262) / 95, 0, 1), -26, -8, -6))
        front = [(120, 352), (120, 268), (136, 232), (162, 210), (188, 232), (204, 268), (204, 356)]
        self.paint(self.polygon(front), red)
        self.paint(self.polygon([(204, 356), (204, 268), (330, 262), (330, 342)]), 1.16 * red)
        roof = self.shade((96, 90, 92), (np.where((self.x + self.y / 3) % 9 < 1.2, -16, 0) + 6 * self.rough(20, 3), 1, 1, 1))
        self.paint(self.polygon([(158, 205), (166, 205), (192, 229), (210, 268), (334, 262), (318, 226), (292, 203)]), 1.1 * roof)
        self.paint(self.polygon([(112, 272), (131, 229), (160, 204), (165, 208), (137, 233), (119, 274)]), 0.72 * roof)
        white = self.shade((232, 226, 214), (self.rough(18, 3), 7, 7, 7))
        for points in (
            [(140, 354), (140, 300), (184, 300), (184, 355)],
            [(152, 262), (152, 238), (172, 238), (172, 262)],
        ):
            self.paint(self.polygon(points), white)
        self.paint(self.polygon([(144, 353), (144, 304), (180, 304), (180, 354)]), 0.82 * red)
        self.paint(self.polygon([(155, 259), (155, 241), (169, 241), (169, 259)]), (48, 44, 46))
        for a, b in (((144, 304), (180, 354)), ((180, 304), (144, 353))):
            beam = [(a[0] - 2, a[1]), (a[0] + 2, a[1]), (b[0] + 2, b[1]), (b[0] - 2, b[1])]
            self.paint(self.polygon(beam), white)
        for left in (228, 262, 296):
            self.paint(self.polygon([(left, 318), (left, 292), (left + 16, 291), (left + 16, 317)]), white)
            self.paint(self.polygon([(left + 2, 316), (left + 2, 294), (left + 14, 293), (left + 14, 315)]), (72, 84, 98))

    def tree(self):
        self.paint(0.45 * self.mask(lambda draw: draw.ellipse([v * self.scale for v in (318, 392, 470, 428)], fill=255), 6), (40, 54, 24))
        trunk = [(402, 408), (409, 352), (405, 300), (417, 300), (419, 350), (430, 410)]
        self.paint(self.polygon(trunk), self.shade((92, 68, 48), (self.rough(12, 3, 0.3), 14, 11, 9)))
        cover = np.zeros((self.height, self.width, 1), np.float32)
        for x, y, radius in ((411, 250, 52), (372, 272, 36), (450, 274, 38), (392, 222, 38), (434, 220, 36), (411, 292, 40)):
            edge = radius + 9 * self.rough(13, 3)
            cover = np.maximum(cover, np.clip((edge - np.hypot(self.x - x, self.y - y)) * self.scale, 0, 1)[..., None])
        light = np.clip(((self.x - 411) - 0.9 * (self.y - 255)) / 110, -1, 1)
        leaves = self.shade((62, 102, 40), (light, 42, 46, 14), (self.rough(11, 4), 26, 28, 14))
        self.paint(cover * np.clip(1.35 + self.rough(9, 2)[..., None], 0, 1), leaves)

    def fence(self):
        rows = [(14, 424, 448), (84, 421, 446), (154, 424, 450), (224, 430, 457), (294, 438, 466)]
        wood = self.shade((196, 176, 148), (self.rough(8, 3, 2), 15, 14, 12))
        for (x0, top0, low0), (x1, top1, low1) in zip(rows, rows[1:]):
            for y0, y1 in ((top0 + 3, top1 + 3), (top0 + 13, top1 + 13)):
                self.paint(self.polygon([(x0, y0), (x1, y1), (x1, y1 + 3.5), (x0, y0 + 3.5)]), wood)
        for x, top, low in rows:
            self.paint(self.polygon([(x - 3, low), (x - 3, top - 4), (x + 3, top - 4), (x + 3, low + 1)]), 0.92 * wood)

    def finish(self):
        """What a camera adds: a darker rim and grain, more of it where it is dark."""
        rim = ((self.x - WIDTH / 2) ** 2 + (self.y - HEIGHT / 2) ** 2) / (WIDTH**2 / 4 + HEIGHT**2 / 4)
        self.picture *= (1 - 0.2 * rim)[..., None]
        grain = self.rng.normal(0, 1, (self.height, self.width, 1)) + 0.4 * self.rng.normal(0, 1, self.picture.shape)
        self.picture += grain.astype(np.float32) * (3.2 - self.picture / 160)
        return Image.fromarray(np.clip(self.picture + 0.5, 0, 255).astype(np.uint8))


def draw(scale):
    scene = Scene(scale)
    scene.sky()
    scene.hills()
    scene.meadow()
    scene.lake()
    scene.barn()
    scene.tree()
    scene.fence()
    return scene.finish()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("output", nargs="?", default=pathlib.Path(__file__).resolve().parent.parent / "models" / "sample.jpg")
    options = parser.parse_args()
    draw(options.scale).save(options.output, "JPEG", quality=80, optimize=True)


if __name__ == "__main__":
    main()
