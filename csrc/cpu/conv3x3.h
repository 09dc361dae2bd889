// 3x3 convolutions of stride 1 on channels_last images, with what often follows them: bias, ReLU, 2x2 maxima.
//
// Winograd's F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016): a patch
// of 6x6 points is transformed, 36 products over the channels give 4x4 results, a quarter of the
// multiplications. With one to four channels there is too little to transform: those are computed directly.
// The sums of an output are added in the same order wherever its tile lies, so that results do not depend on
// batch or threads.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "floats.h"
#include "kernel_table.h"

namespace rcfast::cpu {
namespace {

constexpr int kRows = 6;  // rows of the product in registers, by two vectors of filters
constexpr int kWide = 2 * kFloats;
static_assert(kWide == kConvFilters, "weights are laid out for two vectors");

// c [Rows, 16] = a [Rows, depth] times b [depth, 16], plus start [16] if there is one
template <int Rows>
inline void multiply(const float* a, int64_t row, const float* b, int64_t depth, Floats (&sum)[Rows][2]) {
    for (int64_t k = 0; k < depth; ++k) {
        const Floats b0 = load(b + kWide * k), b1 = load(b + kWide * k + kFloats);
        for (int i = 0; i < Rows; ++i) {
            const Floats v = all(a[i * row + k]);
            sum[i][0] = fma(v, b0, sum[i][0]);
            sum[i][1] = fma(v, b1, sum[i][1]);
        }
    }
}

// ---- Winograd

struct Tiles {                                   // of all images, in order
    int64_t height, width, down, across, count;  // of the output, and of its tiles
    explicit Tiles(const Conv3x3& a)
        : height(a.height + 2 * a.padding - 2),
          width(a.width + 2 * a.padding - 2),
          down((height + kTile - 1) / kTile),
          across((width + kTile - 1) / kTile),
          count(a.images * down * across) {}
    static constexpr int kTile = 4;
};
constexpr int kPatch = 6, kTransformed = kPatch * kPatch;

// B^T d of the paper
template <class Get>
inline void transform_in(Get get, Floats* r) {
    const Floats d0 = get(0), d1 = get(1), d2 = get(2), d3 = get(3), d4 = get(4), d5 = get(5);
    const Floats a = fma(all(-4), d2, d4), b = fma(all(-4), d1, d3), c = sub(d4, d2), e = sub(d3, d1);
    r[0] = fma(all(4), d0, fma(all(-5), d2, d4));
    r[1] = add(a, b);
    r[2] = sub(a, b);
    r[3] = fma(all(2), e, c);
    r[4] = fma(all(-2), e, c);
    r[5] = fma(all(4), d1, fma(all(-5), d3, d5));
}

// A^T m of the paper
template <class Get>
inline void transform_out(Get get, Floats* y) {
    const Floats m0 = get(0), m1 = get(1), m2 = get(2), m3 = get(3), m4 = get(4), m5 = get(5);
    const Floats s = add(m1, m2), d = sub(m1, m2), p = add(m3, m4), q = sub(m3, m4);
    y[0] = add(add(m0, s), p);
    y[1] = fma(all(2), q, d);
    y[2] = fma(all(4), p, s);
    y[3] = add(fma(all(8), q, d), m5);
}

class Winograd {
  public:
    explicit Winograd(const Conv3x3& a)
        : a_(a),
          tiles_(a),
          wide_((a.filters + kWide - 1) / kWide * kWide),
          in_stride_(kConvTiles * a.channels + kWide),  // the padding keeps the 36 planes off one cache set
          out_stride_(kConvTiles * wide_ + kWide) {
        scratch_.resize(static_cast<size_t>(kTransformed * (in_stride_ + out_stride_ + a.channels)));
        in_ = scratch_.data();
        out_ = in_ + kTransformed * in_stride_;
        patch_ = out_ + kTransformed * out_stride_;
    }

    void block(int64_t index) {
        const int64_t first = index * kConvTiles;
        const int64_t count = std::min<int64_t>(kConvTiles, tiles_.count - first);
        for (int64_t t = 0; t < count; ++t) transform_patch(first + t, in_ + t * a_.channels);
        const int64_t rows = (count + kRows - 1) / kRows * kRows;  // what lies beyond count is not used
        for (int64_t q = 0; q < kTransformed; ++q)
            for (int64_t k = 0; k < wide_; k += kWide)
                for (int64_t t = 0; t < rows; t += kRows) {
                    Floats sum[kRows][2];
                    for (auto& row : sum) row[0] = row[1] = all(0);
                    multiply(in_ + q * in_stride_ + t * a_.channels, a_.channels,
                             a_.weights + (q * wide_ + k) * a_.channels, a_.channels, sum);
                    for (int i = 0; i < kRows; ++i) {
                        float* to = out_ + q * out_stride_ + (t + i) * wide_ + k;
                        store(to, sum[i][0]);
                        store(to + kFloats, sum[i][1]);
                    }
                }
        for (int64_t t = 0; t < count; ++t)
            for (int64_t k = 0; k < a_.filters; k += kFloats) results(first + t, out_ + t * wide_ + k, k);
    }

  private:
    void transform_patch(int64_t tile, float* to) {
        const int64_t image = tile / (tiles_.down * tiles_.across), channels = a_.channels;
        const int64_t top = tile / tiles_.across % tiles_.down * Tiles::kTile - a_.padding;
        const int64_t left = tile % tiles_.across * Tiles::kTile - a_.padding;
        const bool inside = top >= 0 && left >= 0 && top + kPatch <= a_.height && left + kPatch <= a_.width;
        const float* from = patch_;
        int64_t row = kPatch * channels;
        if (inside) {
            row = a_.width * channels;
            from = a_.x + ((image * a_.height + top) * a_.width + left) * channels;
        } else {
            copy_patch(image, top, left);
        }
        for (int64_t c = 0; c < channels; c += kFloats) {
            Floats half[kPatch][kPatch], r[kPatch];
            for (int j = 0; j < kPatch; ++j) {
                transform_in([&](int i) { return load(from + i * row + j * channels + c); }, r);
                for (int i = 0; i < kPatch; ++i) half[i][j] = r[i];
            }
            for (int i = 0; i < kPatch; ++i) {
                transform_in([&](int j) { return half[i][j]; }, r);
                for (int j = 0; j < kPatch; ++j) store(to + (i * kPatch + j) * in_stride_ + c, r[j]);
            }
        }
    }

    void copy_patch(int64_t image, int64_t top, int64_t left) {  // with zeros around the image
        const size_t size = static_cast<size_t>(a_.channels) * sizeof(float);
        for (int i = 0; i < kPatch; ++i)
            for (int j = 0; j < kPatch; ++j) {
                const int64_t y = top + i, x = left + j;
                float* to = patch_ + (i * kPatch + j) * a_.channels;
                if (y >= 0 && x >= 0 && y < a_.height && x < a_.width)
                    std::memcpy(to, a_.x + ((image * a_.height + y) * a_.width + x) * a_.channels, size);
                else
                    std::memset(to, 0, size);
            }
    }

    void results(int64_t tile, const float* sums, int64_t filter) {
        constexpr int size = Tiles::kTile;
        const int64_t image = tile / (tiles_.down * tiles_.across);
        const int64_t down = tile / tiles_.across % tiles_.down, across = tile % tiles_.across;
        Floats half[size][kPatch], y[size][size], r[size];
        for (int j = 0; j < kPatch; ++j) {
            transform_out([&](int i) { return load(sums + (i * kPatch + j) * out_stride_); }, r);
            for (int i = 0; i < size; ++i) half[i][j] = r[i];
        }
        const Floats bias = load(a_.bias + filter);
        for (int i = 0; i < size; ++i) {
            transform_out([&](int j) { return half[i][j]; }, r);
            for (int j = 0; j < size; ++j) y[i][j] = add(r[j], bias);
        }
        const int step = a_.pool ? 2 : 1;
        const int64_t height = tiles_.height / step, width = tiles_.width / step;
        for (int i = 0; i < size / step; ++i)
            for (int j = 0; j < size / step; ++j) {
                const int64_t row = size / step * down + i, column = size / step * across + j;
                if (row >= height || column >= width) continue;
                const int64_t place = ((image * height + row) * width + column) * a_.filters + filter;
                Floats v = a_.pool ? larger(larger(y[2 * i][2 * j], y[2 * i][2 * j + 1]),
                                            larger(y[2 * i + 1][2 * j], y[2 * i + 1][2 * j + 1]))
                                   : y[i][j];
                if (a_.added) v = add(v, load(a_.added + place));
                if (a_.relu) v = positive(v);
                if (a_.gate) v = gated(v, load(a_.gate + place));
                store(a_.out + place, v);
            }
    }

    const Conv3x3& a_;
    const Tiles tiles_;
    const int64_t wide_;  // filters, filled up
    const int64_t in_stride_, out_stride_;
    float *in_, *out_, *patch_;  // [36][tiles][channels], [36][tiles][filters], [6][6][channels]
    static inline thread_local std::vector<float> scratch_;
};

// ---- few channels

template <int Rows>
inline void direct(const Conv3x3& a, const float* window, int64_t row, int64_t filter, float* to) {
    const bool both = filter + kFloats < a.filters;
    const int64_t wide = (a.filters + kWide - 1) / kWide * kWide, channels = a.channels;
    Floats sum[Rows][2];
    for (auto& s : sum) {
        s[0] = load(a.bias + filter);
        s[1] = both ? load(a.bias + filter + kFloats) : all(0);
    }
    for (int64_t i = 0; i < 9; ++i)
        multiply(window + (i / 3 * row + i % 3) * channels, channels,
                 a.weights + (i * wide + filter) * channels, channels, sum);
    for (int i = 0; i < Rows; ++i) {
        store(to + i * a.filters, a.relu ? positive(sum[i][0]) : sum[i][0]);
        if (both) store(to + i * a.filters + kFloats, a.relu ? positive(sum[i][1]) : sum[i][1]);
    }
}

// One row of output, from three rows of input with zeros around.
inline void direct_row(const Conv3x3& a, int64_t index, std::vector<float>& lines) {
    const int64_t height = a.height + 2 * a.padding - 2, width = a.width + 2 * a.padding - 2;
    const int64_t image = index / height, wide = width + 2, channels = a.channels;
    lines.assign(static_cast<size_t>(3 * wide * channels), 0.0f);
    for (int64_t i = 0; i < 3; ++i) {
        const int64_t y = index % height + i - a.padding;
        if (y < 0 || y >= a.height) continue;
        const float* from = a.x + (image * a.height + y) * a.width * channels;
        std::copy_n(from, a.width * channels, lines.data() + (i * wide + a.padding) * channels);
    }
    for (int64_t k = 0; k < a.filters; k += kWide)
        for (int64_t x = 0; x < width;) {
            const float* window = lines.data() + x * channels;
            float* to = a.out + (index * width + x) * a.filters + k;
            if (x + kRows <= width) {
                direct<kRows>(a, window, wide, k, to);
                x += kRows;
            } else {
                direct<1>(a, window, wide, k, to);
                x += 1;
            }
        }
}

void conv3x3_items(const Conv3x3& a, int64_t begin, int64_t end) {
    if (a.winograd) {
        Winograd work(a);
        for (int64_t index = begin; index < end; ++index) work.block(index);
    } else {
        std::vector<float> lines;
        for (int64_t index = begin; index < end; ++index) direct_row(a, index, lines);
    }
}

}  // namespace
}  // namespace rcfast::cpu
