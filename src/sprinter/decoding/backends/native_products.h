// Products of 4- or 8-bit weights with 8-bit activations, for processors with AVX2.
//
// Weights lie in blocks of 8 output rows, so that one register holds 4 inputs of each of them and no sum ever crosses
// lanes:
//
//   4 bit, one block and group of 32 inputs: 4 registers; byte 4*row + i of register j holds input 4*j + i in its low
//   half and input 4*(j + 4) + i in its high half;  weight = scale * code + minimum
//   8 bit: 8 registers; byte 4*row + i of register j holds input 4*j + i;  weight = scale * code
//
// Activations of a group of 32 share one float scale (largest magnitude / 127).

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "native_pool.h"

namespace {

constexpr int kGroup = 32;
constexpr int kBlock = 8;
constexpr int64_t kWorthwhile = 50000;  // multiplications of one piece of work

struct Matrix {
    const uint8_t* codes;
    const uint16_t* scales;    // float16 [block, group, 8]
    const uint16_t* minimums;  // the same; null for 8 bit
    const float* bias;         // [rows] or null
    int64_t rows, columns;
};

// Rows of activations in 8 bits.
struct Quantised {
    std::vector<int8_t> codes;        // [row, column]
    std::vector<float> scales, sums;  // [row, group]; sums = scale * sum of codes
    Quantised(int64_t rows, int64_t columns)
        : codes(rows * columns), scales(rows * columns / kGroup), sums(rows * columns / kGroup) {}
};

inline void quantise_group(const float* x, int8_t* codes, float* scale, float* sum) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4], largest = _mm256_setzero_ps(), probe = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, v[i]));
        probe = _mm256_fmadd_ps(v[i], _mm256_setzero_ps(), probe);
    }
    float lanes[8], probes[8], most = 0.0f;
    _mm256_storeu_ps(lanes, largest);
    _mm256_storeu_ps(probes, probe);
    for (int i = 0; i < 8; i++) {
        if (lanes[i] > most) most = lanes[i];
        // A NaN or infinity must reach the logits, where it is reported; codes cannot carry one.
        if (probes[i] != 0.0f) {
            *scale = *sum = probes[i];
            std::memset(codes, 0, kGroup);
            return;
        }
    }
    *scale = most / 127.0f;
    const __m256 inverse = _mm256_set1_ps(most > 0.0f ? 127.0f / most : 0.0f);
    __m256i total = _mm256_setzero_si256(), q[4];
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        total = _mm256_add_epi32(total, q[i]);
    }
    // The two packs work within halves of registers; the permutation puts the inputs back in order.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
    int32_t totals[8], all = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(totals), total);
    for (int i = 0; i < 8; i++) all += totals[i];
    *sum = *scale * static_cast<float>(all);
}

inline __m256 halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

// 8 * `blocks` outputs of `num` rows of x, 4-bit weights. A broadcast activation serves all blocks, unpacked weights
// serve all rows: with one block alone the loads would be the bottleneck.
template <int num, int blocks>
void tile_int4(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const int64_t groups = w.columns / kGroup;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 acc[num][blocks], shift[num][blocks];
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++) acc[t][b] = shift[t][b] = _mm256_setzero_ps();
    const int8_t* a = x.codes.data() + row * w.columns;
    for (int64_t g = 0; g < groups; g++, a += kGroup) {
        // Eight sums of two products of at most 15 * 127 fit into 16 bits.
        __m256i sum[num][blocks];
        for (int t = 0; t < num; t++)
            for (int b = 0; b < blocks; b++) sum[t][b] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256i q[blocks], r[blocks];
            for (int b = 0; b < blocks; b++) {
                const uint8_t* packed = w.codes + ((block + b) * groups + g) * (kBlock * kGroup / 2) + 32 * j;
                const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed));
                q[b] = _mm256_and_si256(bytes, low);
                r[b] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
            }
            for (int t = 0; t < num; t++) {
                const __m256i first = quad(a + t * w.columns + 4 * j), second = quad(a + t * w.columns + 4 * j + 16);
                for (int b = 0; b < blocks; b++) {
                    sum[t][b] = _mm256_add_epi16(sum[t][b], _mm256_maddubs_epi16(q[b], first));
                    sum[t][b] = _mm256_add_epi16(sum[t][b], _mm256_maddubs_epi16(r[b], second));
                }
            }
        }
        for (int b = 0; b < blocks; b++) {
            const int64_t at = ((block + b) * groups + g) * kBlock;
            const __m256 scale = halves(w.scales + at), minimum = halves(w.minimums + at);
            for (int t = 0; t < num; t++) {
                const int64_t s = (row + t) * groups + g;
                const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[t][b], ones));
                acc[t][b] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[s])), acc[t][b]);
                shift[t][b] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sums[s]), shift[t][b]);
            }
        }
    }
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++)
            _mm256_storeu_ps(out + (t * blocks + b) * kBlock, _mm256_add_ps(acc[t][b], shift[t][b]));
}

// The same for 8-bit weights.
template <int num, int blocks>
void tile_int8(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const int64_t groups = w.columns / kGroup;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[num][blocks];
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++) acc[t][b] = _mm256_setzero_ps();
    const int8_t* a = x.codes.data() + row * w.columns;
    for (int64_t g = 0; g < groups; g++, a += kGroup) {
        __m256i sum[num][blocks];
        for (int t = 0; t < num; t++)
            for (int b = 0; b < blocks; b++) sum[t][b] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            __m256i q[blocks], magnitude[blocks];
            for (int b = 0; b < blocks; b++) {
                const uint8_t* codes = w.codes + ((block + b) * groups + g) * (kBlock * kGroup) + 32 * j;
                q[b] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
                // maddubs takes one unsigned side: |weight|, its sign moved onto the activation.
                magnitude[b] = _mm256_abs_epi8(q[b]);
            }
            for (int t = 0; t < num; t++) {
                const __m256i four = quad(a + t * w.columns + 4 * j);
                for (int b = 0; b < blocks; b++) {
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude[b], _mm256_sign_epi8(four, q[b]));
                    sum[t][b] = _mm256_add_epi32(sum[t][b], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (int b = 0; b < blocks; b++) {
            const __m256 scale = halves(w.scales + ((block + b) * groups + g) * kBlock);
            for (int t = 0; t < num; t++) {
                const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[(row + t) * groups + g]));
                acc[t][b] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][b]), factor, acc[t][b]);
            }
        }
    }
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++) _mm256_storeu_ps(out + (t * blocks + b) * kBlock, acc[t][b]);
}

constexpr int kRows = 4;    // rows of one tile
constexpr int kBlocks = 2;  // blocks of one tile

using TileFn = void (*)(const Matrix&, int64_t, const Quantised&, int64_t, float*);
const TileFn kInt4[kBlocks][kRows] = {
    {tile_int4<1, 1>, tile_int4<2, 1>, tile_int4<3, 1>, tile_int4<4, 1>},
    {tile_int4<1, 2>, tile_int4<2, 2>, tile_int4<3, 2>, tile_int4<4, 2>},
};
const TileFn kInt8[kBlocks][kRows] = {
    {tile_int8<1, 1>, tile_int8<2, 1>, tile_int8<3, 1>, tile_int8<4, 1>},
    {tile_int8<1, 2>, tile_int8<2, 2>, tile_int8<3, 2>, tile_int8<4, 2>},
};

// Blocks first .. last - 1 of y (+)= x W^T + b for `rows` rows; y has w.rows floats per row.
void multiply_blocks(const Matrix& w, const Quantised& x, int64_t rows, float* y, bool add, int64_t first, int64_t last) {
    float out[kRows * kBlocks * kBlock];
    for (int64_t block = first; block < last; block += kBlocks) {
        const int blocks = static_cast<int>(std::min<int64_t>(kBlocks, last - block));
        const int64_t begin = block * kBlock, width = std::min<int64_t>(blocks * kBlock, w.rows - begin);
        for (int64_t row = 0; row < rows; row += kRows) {
            const int num = static_cast<int>(std::min<int64_t>(kRows, rows - row));
            (w.minimums ? kInt4 : kInt8)[blocks - 1][num - 1](w, block, x, row, out);
            for (int t = 0; t < num; t++) {
                float* to = y + (row + t) * w.rows + begin;
                for (int64_t i = 0; i < width; i++) {
                    const float value = out[t * blocks * kBlock + i] + (w.bias ? w.bias[begin + i] : 0.0f);
                    to[i] = add ? to[i] + value : value;
                }
            }
        }
    }
}

// y (+)= x W^T + b, shared among the pool's threads.
void multiply(const Matrix& w, const Quantised& x, int64_t rows, float* y, bool add) {
    const int64_t blocks = (w.rows + kBlock - 1) / kBlock;
    // At least some ten thousand products per piece, or handing it out costs more than computing it.
    const int64_t grain = std::max<int64_t>(kBlocks, kWorthwhile / (kBlock * w.columns * rows));
    pool().each(blocks, grain, [&](int64_t first, int64_t last) { multiply_blocks(w, x, rows, y, add, first, last); });
}

inline void quantise_row(const float* x, int64_t row, int64_t columns, Quantised& q) {
    const int64_t groups = columns / kGroup;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t at = row * groups + g;
        quantise_group(x + g * kGroup, &q.codes[at * kGroup], &q.scales[at], &q.sums[at]);
    }
}

}  // namespace
