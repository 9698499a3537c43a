// Pillow's bicubic resampling of RGB, to the bit.
//
// Separable: along rows, then along columns, or the other way round where a picture loses much height, as Pillow does
// it since version 13; each pass only where that size changes. Cubic convolution with a = −0.5 (R. Keys, 1981), widened
// by the scale where the picture shrinks, so that every pixel counts. Weights are normalised in double and rounded to
// 22 binary places; sums are exact, and rounded and clipped to a byte after either pass. What is reproduced is
// `Image.resize(size, Resampling.BICUBIC)` of Pillow 13.0 (src/libImaging/Resample.c, 8 bits a channel).
#pragma once

#include "core/parallel.h"
#include "image/rgb8.h"

namespace quantbench {

// source has pixels; width and height are at least 1. The result is the same for any number of threads. Error usage
// where a side shrinks by a factor that asks for more than 2³¹ bytes of weights as Pillow keeps them, which it refuses
// too; out_of_memory.
Rgb8 resize_bicubic(const Rgb8& source, int width, int height, ThreadPool& pool);

}  // namespace quantbench
