// What every row of logits is asked for after a pass, found by all threads while it lies in their caches.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "native_pool.h"
#include "native_rows.h"

namespace {

struct Facts {
    double best;       // place of the largest entry, the first of equal ones
    double log_total;  // logsumexp
    double entropy;    // of softmax, nats
};

struct Part {
    float peak;
    int64_t best;
    bool bad;  // NaN or +inf among the entries
    Weighed sums;
};

inline Part look(const float* x, int64_t width) {
    const __m256 infinity = _mm256_set1_ps(INFINITY);
    __m256 bad = _mm256_setzero_ps(), most = _mm256_set1_ps(-INFINITY);
    along(
        x, width, -INFINITY,
        [&](int64_t, __m256 v) {
            bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, infinity, _CMP_NLT_UQ));
            most = _mm256_max_ps(v, most);
        },
        [] {});
    alignas(32) float lanes[kLanes];
    _mm256_store_ps(lanes, most);
    Part part = {*std::max_element(lanes, lanes + kLanes), 0, _mm256_movemask_ps(bad) != 0, {}};
    if (!part.bad) part.best = std::find(x, x + width, part.peak) - x;
    return part;
}

// False, and the facts are of no use, where a row has no largest entry or one that is not finite.
inline bool find_facts(const float* logits, int64_t rows, int64_t width, Facts* facts) {
    const int64_t num_parts = (width + kPart - 1) / kPart;
    std::vector<Part> parts(rows * num_parts);
    std::vector<float> peaks(rows, -INFINITY);
    const auto each = [&](const auto& use) {
        pool().each(rows * num_parts, 1, [&](int64_t first, int64_t last) {
            for (int64_t item = first; item < last; item++) {
                const int64_t row = item / num_parts, begin = item % num_parts * kPart;
                use(row, parts[item], logits + row * width + begin, std::min(kPart, width - begin));
            }
        });
    };
    each([](int64_t, Part& part, const float* x, int64_t count) { part = look(x, count); });
    for (int64_t item = 0; item < rows * num_parts; item++) {
        const int64_t row = item / num_parts;
        if (parts[item].bad) return false;
        if (!(parts[item].peak > peaks[row])) continue;
        peaks[row] = parts[item].peak;
        facts[row].best = static_cast<double>(item % num_parts * kPart + parts[item].best);
    }
    for (const float peak : peaks)
        if (peak == -INFINITY) return false;
    each([&](int64_t row, Part& part, const float* x, int64_t count) { part.sums = weigh(x, count, peaks[row]); });
    for (int64_t row = 0; row < rows; row++) {
        Weighed sums;
        for (int64_t i = row * num_parts; i < (row + 1) * num_parts; i++) {
            sums.weights += parts[i].sums.weights;
            sums.products += parts[i].sums.products;
        }
        const Moments moments = moments_from(sums);
        facts[row].log_total = peaks[row] + moments.log_total;
        facts[row].entropy = moments.entropy;
    }
    return true;
}

}  // namespace
