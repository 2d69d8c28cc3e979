// Products of 4- or 8-bit weights with 8-bit activations: the layout of weights, and tiles for AVX2.
//
// Weights lie in blocks of 16 output rows, so that one register holds 4 inputs of each of 8 (AVX2) or 16 (AVX512) rows
// and no sum ever crosses lanes:
//
//   4 bit, one block and group of 32 inputs: 4 lines of 64 bytes; byte 4*row + i of line j holds input 4*j + i in its
//   low half and input 4*(j + 4) + i in its high half;  weight = scale * code + minimum
//   8 bit: 8 lines; byte 4*row + i of line j holds input 4*j + i;  weight = scale * code
//
// Activations of a group of 32 share one float scale (largest magnitude / 127). Whatever the tile, the sums over a
// group are exact integers, and every output adds its groups up in their order by the same float operations.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "native_quantised.h"

namespace {

constexpr int kBlock = 16;

struct Matrix {
    const uint8_t* codes;      // [block, group, line, 64]
    const uint16_t* scales;    // float16 [block, group, 16]
    const uint16_t* minimums;  // the same; null for 8 bit
    const float* bias;         // [rows] or null
    int64_t rows, columns;
};

inline __m256 halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i bytes_at(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// Weights come from memory in one long stream; asking this far ahead hides the time they take to arrive.
inline void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p + 4096), _MM_HINT_T0); }

inline int32_t four_at(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return four;
}

// Output block `block` of `num` rows of x from `row` on (all in one panel), 4-bit weights; out is [num, 16].
template <int num>
void tile_int4(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 acc[num][2], shift[num][2];
    for (int t = 0; t < num; t++)
        for (int h = 0; h < 2; h++) acc[t][h] = shift[t][h] = _mm256_setzero_ps();
    int64_t at = x.at(row, 0), from = block * x.groups;
    for (int64_t g = 0; g < x.groups; g++, at += kPanel, from++) {
        const uint8_t* codes = w.codes + from * (kBlock * kGroup / 2);
        const int8_t* a = &x.codes[at * kGroup];
        // Eight sums of two products of at most 15 * 127 fit into 16 bits.
        __m256i sum[num][2];
        for (int t = 0; t < num; t++)
            for (int h = 0; h < 2; h++) sum[t][h] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            prefetch(codes + 64 * j);
            __m256i q[2], r[2];
            for (int h = 0; h < 2; h++) {
                const __m256i packed = bytes_at(codes + 64 * j + 32 * h);
                q[h] = _mm256_and_si256(packed, low);
                r[h] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
            }
            for (int t = 0; t < num; t++) {
                const __m256i first = _mm256_set1_epi32(four_at(a + t * kGroup + 4 * j));
                const __m256i second = _mm256_set1_epi32(four_at(a + t * kGroup + 4 * j + 16));
                for (int h = 0; h < 2; h++) {
                    sum[t][h] = _mm256_add_epi16(sum[t][h], _mm256_maddubs_epi16(q[h], first));
                    sum[t][h] = _mm256_add_epi16(sum[t][h], _mm256_maddubs_epi16(r[h], second));
                }
            }
        }
        for (int h = 0; h < 2; h++) {
            const __m256 scale = halves(w.scales + from * kBlock + 8 * h);
            const __m256 minimum = halves(w.minimums + from * kBlock + 8 * h);
            for (int t = 0; t < num; t++) {
                const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[t][h], ones));
                acc[t][h] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[at + t])), acc[t][h]);
                shift[t][h] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sums[at + t]), shift[t][h]);
            }
        }
    }
    for (int t = 0; t < num; t++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(out + t * kBlock + 8 * h, _mm256_add_ps(acc[t][h], shift[t][h]));
}

// The same for 8-bit weights.
template <int num>
void tile_int8(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[num][2];
    for (int t = 0; t < num; t++)
        for (int h = 0; h < 2; h++) acc[t][h] = _mm256_setzero_ps();
    int64_t at = x.at(row, 0), from = block * x.groups;
    for (int64_t g = 0; g < x.groups; g++, at += kPanel, from++) {
        const uint8_t* codes = w.codes + from * (kBlock * kGroup);
        const int8_t* a = &x.codes[at * kGroup];
        __m256i sum[num][2];
        for (int t = 0; t < num; t++)
            for (int h = 0; h < 2; h++) sum[t][h] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            prefetch(codes + 64 * j);
            __m256i q[2], magnitude[2];
            for (int h = 0; h < 2; h++) {
                q[h] = bytes_at(codes + 64 * j + 32 * h);
                // maddubs takes one unsigned side: |weight|, its sign moved onto the activation.
                magnitude[h] = _mm256_abs_epi8(q[h]);
            }
            for (int t = 0; t < num; t++) {
                const __m256i four = _mm256_set1_epi32(four_at(a + t * kGroup + 4 * j));
                for (int h = 0; h < 2; h++) {
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(four, q[h]));
                    sum[t][h] = _mm256_add_epi32(sum[t][h], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (int h = 0; h < 2; h++) {
            const __m256 scale = halves(w.scales + from * kBlock + 8 * h);
            for (int t = 0; t < num; t++) {
                const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[at + t]));
                acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][h]), factor, acc[t][h]);
            }
        }
    }
    for (int t = 0; t < num; t++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + t * kBlock + 8 * h, acc[t][h]);
}

}  // namespace
