// Attention of one query head of one row, with AVX2.
//
// Written out rather than left to the compiler's vectoriser: which lanes a sum runs through decides its last bits, and
// those must not depend on the compiler.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "native_lanes.h"
#include "native_quantised.h"

namespace {

// Keys and values of one head of one cache, and how many of them a row sees.
struct Heads {
    const float *keys, *values;  // [slot, dim]
    int64_t length, dim;
};

// Slots in the order a row sees them: one after the other, or so up to where its branch begins.
struct InLine {
    int64_t operator()(int64_t i) const { return i; }
};

struct OnBranch {
    int64_t line;
    const int64_t* branch;
    int64_t operator()(int64_t i) const { return i < line ? i : branch[i - line]; }
};

// Scaled products of q with the keys seen, 8 at a time (the last is repeated); returns the largest.
template <class Slot>
inline float score_all(const float* q, const Heads& seen, Slot slot, float* scores) {
    const int64_t length = seen.length, dim = seen.dim;
    const __m256 factor = _mm256_set1_ps(1.0f / std::sqrt(static_cast<float>(dim)));
    __m256 largest = _mm256_set1_ps(-INFINITY);
    for (int64_t i = 0; i < length; i += kLanes) {
        const float* key[kLanes];
        __m256 dot[kLanes];
        for (int k = 0; k < kLanes; k++) {
            key[k] = seen.keys + slot(std::min(i + k, length - 1)) * dim;
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

// 8 * `parts` entries, from `begin` on, of the weighted mean of the values seen.
template <int parts, class Slot>
inline void average(const float* weights, float total, const Heads& seen, Slot slot, int64_t begin, float* y) {
    __m256 sum[parts];
    for (int k = 0; k < parts; k++) sum[k] = _mm256_setzero_ps();
    for (int64_t i = 0; i < seen.length; i++) {
        const __m256 weight = _mm256_set1_ps(weights[i]);
        const float* value = seen.values + slot(i) * seen.dim + begin;
        for (int k = 0; k < parts; k++) sum[k] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(value + k * kLanes), sum[k]);
    }
    for (int k = 0; k < parts; k++)
        _mm256_storeu_ps(y + begin + k * kLanes, _mm256_div_ps(sum[k], _mm256_set1_ps(total)));
}

// One query head of one row; overwrites y [dim] and scores [length, rounded up to 8].
template <class Slot>
inline void attend(const float* q, const Heads& seen, Slot slot, float* scores, float* y) {
    const float total = weigh_all(scores, score_all(q, seen, slot, scores), seen.length);
    int64_t d = 0;
    for (; d + 8 * kLanes <= seen.dim; d += 8 * kLanes) average<8>(scores, total, seen, slot, d, y);
    for (; d < seen.dim; d += kLanes) average<1>(scores, total, seen, slot, d, y);
}

}  // namespace
