// Pixels as SigLIP takes them: x · (1/255) in double, rounded to fp32, then (v − 0.5) / 0.5 in fp32, which is in [−1,
// 1]. To the bit as transformers 5.17's SiglipImageProcessorPil computes it (rescale and normalize of
// image_transforms.py with the means and deviations 0.5).
#pragma once

#include <span>

#include "image/rgb8.h"

namespace quantbench {

// out: [3, height, width].
void siglip_planes(const Rgb8& picture, std::span<float> out);

// The same values by patches, row by row of them: out is [(height / patch) · (width / patch), 3 · patch · patch];
// within a patch channel, then row, then column, as a Conv2d's weight [outputs, 3, patch, patch] has them, so that the
// embedding of patches is a product with that. patch divides both sides.
void siglip_patches(const Rgb8& picture, int patch, std::span<float> out);

}  // namespace quantbench
