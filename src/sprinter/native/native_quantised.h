// Activations in 8 bits.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kGroup = 32;  // activations that share one scale
constexpr int kPanel = 8;   // rows stored together: a tile of up to 8 rows reads one stream

// Rows of activations, one scale per group of 32; everything lies in the order [panel, group, row of the panel].
struct Quantised {
    int64_t groups;
    std::vector<int8_t> codes;        // 32 per group, in -127 .. 127
    std::vector<float> scales, sums;  // sums = scale * sum of codes
    std::vector<int32_t> offsets;     // -128 * sum of codes

    Quantised(int64_t rows, int64_t columns)
        : groups(columns / kGroup),
          codes(padded(rows) * columns),
          scales(padded(rows) * groups),
          sums(padded(rows) * groups),
          offsets(padded(rows) * groups) {}

    static int64_t padded(int64_t rows) { return (rows + kPanel - 1) / kPanel * kPanel; }

    int64_t at(int64_t row, int64_t group) const { return (row / kPanel * groups + group) * kPanel + row % kPanel; }
};

// Largest of 8 numbers that are not negative.
inline float largest_of(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

inline int32_t sum_of(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}

// A NaN or infinity must reach the logits, where it is reported; codes cannot carry one, so scale and sum do.
inline void poison_group(__m256 probe, int64_t at, Quantised& q) {
    float probes[8];
    _mm256_storeu_ps(probes, probe);
    const float* bad = probes;
    while (*bad == 0.0f) bad++;
    q.scales[at] = q.sums[at] = *bad;
    q.offsets[at] = 0;
    std::memset(&q.codes[at * kGroup], 0, kGroup);
}

// 32 activations from x to place `at`.
inline void quantise_group(const float* x, int64_t at, Quantised& q) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4], largest = _mm256_setzero_ps(), probe = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, v[i]));
        probe = _mm256_fmadd_ps(v[i], _mm256_setzero_ps(), probe);  // 0 for every finite number, else NaN
    }
    if (_mm256_movemask_ps(_mm256_cmp_ps(probe, _mm256_setzero_ps(), _CMP_NEQ_UQ))) return poison_group(probe, at, q);
    const float most = largest_of(largest), scale = most / 127.0f;
    // Below this the quotient overflows; such a group counts as zeros.
    const __m256 inverse = _mm256_set1_ps(most > 1e-36f ? 127.0f / most : 0.0f);
    __m256i total = _mm256_setzero_si256(), code[4];
    for (int i = 0; i < 4; i++) {
        code[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        total = _mm256_add_epi32(total, code[i]);
    }
    // The two packs work within halves of registers; the permutation puts the inputs back in order.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(code[0], code[1]), _mm256_packs_epi32(code[2], code[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(&q.codes[at * kGroup]), _mm256_permutevar8x32_epi32(bytes, order));
    const int32_t all = sum_of(total);
    q.scales[at] = scale;
    q.sums[at] = scale * static_cast<float>(all);
    q.offsets[at] = -128 * all;
}

inline void quantise_row(const float* x, int64_t row, Quantised& q) {
    for (int64_t g = 0; g < q.groups; g++) quantise_group(x + g * kGroup, q.at(row, g), q);
}

}  // namespace
