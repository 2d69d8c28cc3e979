// Attention of one query head of one row, with AVX2.
//
// Written out rather than left to the compiler's vectoriser: which lanes a sum runs through decides its last bits, and
// those must not depend on the compiler.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "native_quantised.h"

namespace {

constexpr int kLanes = 8;

// Cephes' expf without its special cases; arguments are at most 0.
inline __m256 exponential(__m256 x) {
    const auto all = [](float value) { return _mm256_set1_ps(value); };
    x = _mm256_max_ps(all(-87.0f), x);
    const __m256 whole = _mm256_floor_ps(_mm256_fmadd_ps(x, all(1.44269504f), all(0.5f)));
    const __m256 rest = _mm256_fnmadd_ps(whole, all(0.693359375f), x);
    const __m256 r = _mm256_fmadd_ps(whole, all(2.12194440e-4f), rest);
    __m256 p = all(1.9875691500e-4f);
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm256_fmadd_ps(p, r, all(c));
    p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(p, r), r, r), all(1.0f));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvttps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// Sums over the lanes of each of 8 registers, first lane to last.
inline __m256 sums_of_lanes(const __m256* a) {
    __m256 pairs[8], fours[8], sum = _mm256_setzero_ps();
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) sum = _mm256_add_ps(sum, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
    for (int i = 0; i < 4; i++) sum = _mm256_add_ps(sum, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
    return sum;
}

// Scaled products of q with the keys at 0 .. length - 1, 8 at a time (the last is repeated); returns the largest.
inline float score_all(const float* q, const float* keys, int64_t length, int64_t dim, float* scores) {
    const __m256 factor = _mm256_set1_ps(1.0f / std::sqrt(static_cast<float>(dim)));
    __m256 largest = _mm256_set1_ps(-INFINITY);
    for (int64_t i = 0; i < length; i += kLanes) {
        const float* key[kLanes];
        __m256 dot[kLanes];
        for (int k = 0; k < kLanes; k++) {
            key[k] = keys + std::min(i + k, length - 1) * dim;
            dot[k] = _mm256_setzero_ps();
        }
        for (int64_t d = 0; d < dim; d += kLanes) {
            const __m256 part = _mm256_loadu_ps(q + d);
            for (int k = 0; k < kLanes; k++) dot[k] = _mm256_fmadd_ps(part, _mm256_loadu_ps(key[k] + d), dot[k]);
        }
        const __m256 score = _mm256_mul_ps(sums_of_lanes(dot), factor);
        _mm256_storeu_ps(scores + i, score);
        largest = _mm256_max_ps(score, largest);
    }
    float lanes[kLanes];
    _mm256_storeu_ps(lanes, largest);
    return *std::max_element(lanes, lanes + kLanes);
}

// scores -> exp(scores - largest); returns their sum.
inline float weigh_all(float* scores, float largest, int64_t length) {
    __m256 totals = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i < length; i += kLanes) {
        const __m256 weight = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + i), _mm256_set1_ps(largest)));
        _mm256_storeu_ps(scores + i, weight);
        if (i + kLanes <= length) totals = _mm256_add_ps(totals, weight);
    }
    float lanes[kLanes], total = 0.0f;
    _mm256_storeu_ps(lanes, totals);
    for (i = length / kLanes * kLanes; i < length; i++) lanes[0] += scores[i];
    for (const float lane : lanes) total += lane;
    return total;
}

// 8 * `parts` entries of the weighted mean of values, which lie `dim` apart.
template <int parts>
inline void average(const float* weights, float total, const float* values, int64_t length, int64_t dim, float* y) {
    __m256 sum[parts];
    for (int k = 0; k < parts; k++) sum[k] = _mm256_setzero_ps();
    for (int64_t i = 0; i < length; i++) {
        const __m256 weight = _mm256_set1_ps(weights[i]);
        for (int k = 0; k < parts; k++)
            sum[k] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(values + i * dim + k * kLanes), sum[k]);
    }
    for (int k = 0; k < parts; k++) _mm256_storeu_ps(y + k * kLanes, _mm256_div_ps(sum[k], _mm256_set1_ps(total)));
}

// One query head of one row over positions 0 .. length - 1; overwrites y [dim] and scores [length, rounded up to 8].
inline void attend(const float* q, const float* keys, const float* values, int64_t length, int64_t dim, float* scores,
                   float* y) {
    const float total = weigh_all(scores, score_all(q, keys, length, dim, scores), length);
    int64_t d = 0;
    for (; d + 8 * kLanes <= dim; d += 8 * kLanes) average<8>(scores, total, values + d, length, dim, y + d);
    for (; d < dim; d += kLanes) average<1>(scores, total, values + d, length, dim, y + d);
}

}  // namespace
