// The verifier's score of one drafted token: its layers and its calibration.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "native_lanes.h"
#include "native_rows.h"

namespace {

constexpr int kScalars = 9;  // features that are one number each

// y = W x + b; rows and columns are multiples of 8, filled up with zeros.
struct Dense {
    const float *weight, *bias;  // [rows, columns], [rows]
    int64_t rows, columns;
};

struct Scorer {
    const Dense* layers;  // the first reads hidden and scalars; row 0 of the last is the logit
    int64_t num_layers, hidden;
    const double *knots, *values;  // [num_knots] of the calibration
    int64_t num_knots;
};

void dense(const Dense& layer, const float* x, const float* bias, float* y) {
    for (int64_t r = 0; r < layer.rows; r += kLanes) {
        const float* w = layer.weight + r * layer.columns;
        __m256 dot[kLanes];
        for (int k = 0; k < kLanes; k++) dot[k] = _mm256_setzero_ps();
        for (int64_t c = 0; c < layer.columns; c += kLanes) {
            const __m256 part = _mm256_loadu_ps(x + c);
            for (int k = 0; k < kLanes; k++)
                dot[k] = _mm256_fmadd_ps(part, _mm256_loadu_ps(w + k * layer.columns + c), dot[k]);
        }
        _mm256_storeu_ps(y + r, _mm256_add_ps(sums_of_lanes(dot), _mm256_loadu_ps(bias + r)));
    }
}

int64_t count_above(const float* x, int64_t width, float level) {
    const __m256 than = _mm256_set1_ps(level);
    int64_t count = 0;
    along(
        x, width, -INFINITY,
        [&](int64_t, __m256 v) {
            count += __builtin_popcount(_mm256_movemask_ps(_mm256_cmp_ps(v, than, _CMP_GT_OQ)));
        },
        [] {});
    return count;
}

double calibrated(const Scorer& s, double score) {
    if (s.num_knots == 0) return score;
    const int64_t above = std::upper_bound(s.knots, s.knots + s.num_knots, score) - s.knots;
    if (above == 0) return s.values[0];
    if (above == s.num_knots) return s.values[above - 1];
    const double run = s.knots[above] - s.knots[above - 1], rise = s.values[above] - s.values[above - 1];
    return s.values[above - 1] + rise / run * (score - s.knots[above - 1]);
}

// `known` is the first layer's bias with what the token's embedding adds, or null.
double score(const Scorer& s, const float* hidden, const float* known, const float* scalars) {
    int64_t widest = 0;
    for (int64_t i = 0; i < s.num_layers; i++) widest = std::max({widest, s.layers[i].rows, s.layers[i].columns});
    std::vector<float> space(2 * widest, 0.0f);
    float *x = space.data(), *y = x + widest;
    std::copy(hidden, hidden + s.hidden, x);
    std::copy(scalars, scalars + kScalars, x + s.hidden);
    for (int64_t i = 0; i < s.num_layers; i++) {
        const Dense& layer = s.layers[i];
        if (i) std::transform(x, x + layer.columns, x, [](float v) { return v < 0.0f ? 0.0f : v; });
        dense(layer, x, i == 0 && known ? known : layer.bias, y);
        std::swap(x, y);
    }
    const double logit = x[0];
    return calibrated(s, logit > -700.0 ? 1.0 / (1.0 + std::exp(-logit)) : 0.0);
}

}  // namespace
