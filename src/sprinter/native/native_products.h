// Products of whole matrices: the choice among tiles, and the sharing of work among threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "native_avx2.h"
#include "native_pool.h"
#ifndef SPRINTER_AVX2_ONLY
#include "native_vnni.h"
#endif

namespace {

constexpr int64_t kWorthwhile = 50000;  // multiplications of one piece of work

using Tile = void (*)(const Matrix&, int64_t block, const Quantised&, int64_t row, float* out);

// What one kind of processor computes with: a tile for every number of rows up to `rows`, a divisor of a panel's.
struct Tiles {
    int rows;
    Tile int4[kPanel], int8[kPanel];
};

const Tiles kAvx2 = {4,
                     {tile_int4<1>, tile_int4<2>, tile_int4<3>, tile_int4<4>},
                     {tile_int8<1>, tile_int8<2>, tile_int8<3>, tile_int8<4>}};

#ifndef SPRINTER_AVX2_ONLY
const Tiles kVnni = {8,
                     {vnni_int4<1>, vnni_int4<2>, vnni_int4<3>, vnni_int4<4>, vnni_int4<5>, vnni_int4<6>, vnni_int4<7>,
                      vnni_int4<8>},
                     {vnni_int8<1>, vnni_int8<2>, vnni_int8<3>, vnni_int8<4>, vnni_int8<5>, vnni_int8<6>, vnni_int8<7>,
                      vnni_int8<8>}};
#endif

// The tiles of level 0 (AVX2) or 1 (AVX512-VNNI); null where the processor or this build has none such.
const Tiles* tiles_of(int level) {
#ifndef SPRINTER_AVX2_ONLY
    __builtin_cpu_init();  // not every runtime has done so when a shared library is loaded
    if (level == 1 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        return &kVnni;
#endif
    return level == 0 ? &kAvx2 : nullptr;
}

// What all products compute with: the best there is, unless a test chooses.
std::atomic<const Tiles*>& chosen_tiles() {
    static std::atomic<const Tiles*> chosen{tiles_of(1) ? tiles_of(1) : tiles_of(0)};
    return chosen;
}

// One row of a finished tile into y (+)= out + b.
inline void put(const float* out, const float* bias, int64_t width, bool add, float* y) {
    for (int64_t i = 0; i < width; i++) {
        const float value = out[i] + (bias ? bias[i] : 0.0f);
        y[i] = add ? y[i] + value : value;
    }
}

// Blocks first .. last - 1 of y (+)= x W^T + b for `rows` rows; y has w.rows floats per row.
void multiply_blocks(const Matrix& w, const Quantised& x, int64_t rows, float* y, bool add, int64_t first, int64_t last) {
    const Tiles& tiles = *chosen_tiles().load(std::memory_order_relaxed);
    float out[kPanel * kBlock];
    for (int64_t block = first; block < last; block++) {
        const int64_t begin = block * kBlock, width = std::min<int64_t>(kBlock, w.rows - begin);
        const float* bias = w.bias ? w.bias + begin : nullptr;
        for (int64_t row = 0; row < rows; row += tiles.rows) {
            const int num = static_cast<int>(std::min<int64_t>(tiles.rows, rows - row));
            (w.minimums ? tiles.int4 : tiles.int8)[num - 1](w, block, x, row, out);
            for (int t = 0; t < num; t++) {
                float* to = y + (row + t) * w.rows + begin;
                // A width known to the compiler makes this a handful of instructions.
                if (width == kBlock) put(out + t * kBlock, bias, kBlock, add, to);
                else put(out + t * kBlock, bias, width, add, to);
            }
        }
    }
}

// y (+)= x W^T + b, shared among the pool's threads.
void multiply(const Matrix& w, const Quantised& x, int64_t rows, float* y, bool add) {
    const int64_t blocks = (w.rows + kBlock - 1) / kBlock;
    // At least some ten thousand products per piece, or handing it out costs more than computing it.
    const int64_t grain = std::max<int64_t>(1, kWorthwhile / (kBlock * w.columns * rows));
    pool().each(blocks, grain, [&](int64_t first, int64_t last) { multiply_blocks(w, x, rows, y, add, first, last); });
}

}  // namespace
