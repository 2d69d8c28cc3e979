// Operations on one row of logits or of probabilities, with AVX2 on every processor.
//
// Sums run over 8 lanes in float for 32 entries and are carried on in double: one fixed order, whatever the compiler.
// (Hundreds of equal entries in float would round the same way every time: a law would be off 1 by 5e-7.)
// The logarithms and the few single exponentials are the C library's, in double.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "native_lanes.h"

namespace {

constexpr int64_t kStretch = 32;     // entries summed in float
constexpr int64_t kPart = 4096;      // entries of a row that one thread looks at
constexpr int64_t kDrawBlock = 512;  // entries of a law summed at once when drawing

// The last `count` < 8 entries of a row, the other lanes at `fill`.
inline __m256 rest_of(const float* x, int64_t count, float fill) {
    alignas(32) float lanes[kLanes];
    for (int i = 0; i < kLanes; i++) lanes[i] = i < count ? x[i] : fill;
    return _mm256_load_ps(lanes);
}

class Sum {
   public:
    void add(__m256 v) { few_ = _mm256_add_ps(few_, v); }
    void carry() {
        low_ = _mm256_add_pd(low_, _mm256_cvtps_pd(_mm256_castps256_ps128(few_)));
        high_ = _mm256_add_pd(high_, _mm256_cvtps_pd(_mm256_extractf128_ps(few_, 1)));
        few_ = _mm256_setzero_ps();
    }
    double total() {
        carry();
        alignas(32) double lanes[4];
        _mm256_store_pd(lanes, _mm256_add_pd(low_, high_));
        return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    }

   private:
    __m256 few_ = _mm256_setzero_ps();
    __m256d low_ = _mm256_setzero_pd(), high_ = _mm256_setzero_pd();
};

// use(place, 8 entries) for a whole row, whose end is filled up with `fill`; carry() after every stretch.
template <class Use, class Carry>
inline void along(const float* x, int64_t width, float fill, Use use, Carry carry) {
    int64_t i = 0;
    for (int64_t end; i + kLanes <= width; i = end) {
        end = std::min(i + kStretch, width / kLanes * kLanes);
        for (int64_t k = i; k < end; k += kLanes) use(k, _mm256_loadu_ps(x + k));
        carry();
    }
    if (i < width) use(i, rest_of(x + i, width - i, fill));
}

inline void put_part(float* to, int64_t count, __m256 v) {
    if (count >= kLanes) return _mm256_storeu_ps(to, v);
    alignas(32) float lanes[kLanes];
    _mm256_store_ps(lanes, v);
    std::copy(lanes, lanes + count, to);
}

struct Peaks {
    float first, second;  // the second is the first again where two entries share it
};

// The two largest entries; -inf for a second that is none.
inline Peaks peaks_of(const float* x, int64_t width) {
    constexpr int kChains = 4;
    __m256 first[kChains], second[kChains];
    for (int c = 0; c < kChains; c++) first[c] = second[c] = _mm256_set1_ps(-INFINITY);
    const auto meet = [&](int c, __m256 v) {
        second[c] = _mm256_max_ps(second[c], _mm256_min_ps(first[c], v));
        first[c] = _mm256_max_ps(first[c], v);
    };
    int64_t i = 0;
    for (; i + kChains * kLanes <= width; i += kChains * kLanes)
        for (int c = 0; c < kChains; c++) meet(c, _mm256_loadu_ps(x + i + c * kLanes));
    for (; i < width; i += kLanes)
        meet(0, i + kLanes <= width ? _mm256_loadu_ps(x + i) : rest_of(x + i, width - i, -INFINITY));
    Peaks found = {-INFINITY, -INFINITY};
    for (int c = 0; c < kChains; c++) {
        alignas(32) float lanes[2 * kLanes];
        _mm256_store_ps(lanes, first[c]);
        _mm256_store_ps(lanes + kLanes, second[c]);
        for (const float value : lanes) {
            found.second = std::max(found.second, std::min(found.first, value));
            found.first = std::max(found.first, value);
        }
    }
    return found;
}

struct Moments {
    double log_total;  // log sum exp(x - peak)
    double total;
    double entropy;  // of softmax(x), nats
};

// Sums of exp(x - peak) and of exp(x - peak) (x - peak).
struct Weighed {
    double weights = 0.0, products = 0.0;
};

inline Weighed weigh(const float* x, int64_t width, float peak) {
    const __m256 top = _mm256_set1_ps(peak), least = _mm256_set1_ps(-100.0f);
    Sum weights, products;
    along(
        x, width, -INFINITY,
        [&](int64_t, __m256 v) {
            // A banned token's -inf would make 0 * -inf; e^-87 is as good as nothing.
            const __m256 shifted = _mm256_max_ps(least, _mm256_sub_ps(v, top)), weight = exponential(shifted);
            weights.add(weight);
            products.add(_mm256_mul_ps(weight, shifted));
        },
        [&] {
            weights.carry();
            products.carry();
        });
    return {weights.total(), products.total()};
}

inline Moments moments_from(Weighed sums) {
    const double log_total = std::log(sums.weights);
    return {log_total, sums.weights, log_total - sums.products / sums.weights};
}

inline Moments moments_of(const float* x, int64_t width, float peak) {
    Weighed sums;
    for (int64_t i = 0; i < width; i += kPart) {  // the parts of native_facts.h: its bits
        const Weighed part = weigh(x + i, std::min(kPart, width - i), peak);
        sums.weights += part.weights;
        sums.products += part.products;
    }
    return moments_from(sums);
}

inline void scale(float* x, int64_t width, double factor) {
    const __m256d by = _mm256_set1_pd(factor);
    int64_t i = 0;
    for (; i + 4 <= width; i += 4)
        _mm_storeu_ps(x + i, _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), by)));
    for (; i < width; i++) x[i] = static_cast<float>(x[i] * factor);
}

// y = softmax(x / temperature); exactly 0 below e^-87 times the largest.
inline void soften(const float* x, int64_t width, float temperature, float* y) {
    const __m256 top = _mm256_set1_ps(peaks_of(x, width).first), divisor = _mm256_set1_ps(temperature);
    const __m256 least = _mm256_set1_ps(-87.0f);
    Sum weights;
    along(
        x, width, -INFINITY,
        [&](int64_t i, __m256 v) {
            v = _mm256_sub_ps(v, top);
            if (temperature != 1.0f) v = _mm256_div_ps(v, divisor);
            const __m256 weight = _mm256_and_ps(exponential(v), _mm256_cmp_ps(v, least, _CMP_GE_OQ));
            weights.add(weight);
            put_part(y + i, width - i, weight);
        },
        [&] { weights.carry(); });
    scale(y, width, 1.0 / weights.total());
}

inline double sum_of(const float* x, int64_t width) {
    Sum sum;
    along(x, width, 0.0f, [&](int64_t, __m256 v) { sum.add(v); }, [&] { sum.carry(); });
    return sum.total();
}

// Sum of the probs [width] whose logit is at most `floor`.
inline double mass_below(const float* probs, const float* logits, int64_t width, float floor) {
    const __m256 highest = _mm256_set1_ps(floor);
    Sum sum;
    along(
        logits, width, INFINITY,
        [&](int64_t i, __m256 v) {
            const bool whole = i + kLanes <= width;
            const __m256 own = whole ? _mm256_loadu_ps(probs + i) : rest_of(probs + i, width - i, 0.0f);
            sum.add(_mm256_and_ps(own, _mm256_cmp_ps(v, highest, _CMP_LE_OQ)));
        },
        [&] { sum.carry(); });
    return sum.total();
}

// Where the share `point` of the weights is reached, never a place without weight; `point` becomes the point in it.
template <class Weight>
int64_t invert(const Weight* weights, int64_t count, double& point) {
    double total = 0.0, reached = 0.0, before = 0.0;
    for (int64_t i = 0; i < count; i++) total += weights[i];
    const double wanted = point * total;
    int64_t place = 0;
    for (int64_t i = 0; i < count && reached <= wanted; i++) {
        if (!(weights[i] > 0)) continue;
        // Rounding can push the product up to the total; the last place with weight is then meant.
        place = i;
        before = reached;
        reached += weights[i];
    }
    point = std::min(1.0, (wanted - before) / (reached - before));
    return place;
}

// A place of probs [width] drawn by inversion of the distribution function at `point` in [0, 1).
inline int64_t draw(const float* probs, int64_t width, double point) {
    std::vector<double> blocks;
    blocks.reserve((width + kDrawBlock - 1) / kDrawBlock);
    for (int64_t i = 0; i < width; i += kDrawBlock) blocks.push_back(sum_of(probs + i, std::min(kDrawBlock, width - i)));
    const int64_t start = invert(blocks.data(), static_cast<int64_t>(blocks.size()), point) * kDrawBlock;
    return start + invert(probs + start, std::min(kDrawBlock, width - start), point);
}

// y = norm((p - q)+) for p over tokens 0 .. width - 1 and q over `ids` [count] (null: 0 .. count - 1), ascending.
// False, and y is of no use, where nothing is left.
inline bool remains(const float* p, int64_t width, const float* q, const int64_t* ids, int64_t count, float* y) {
    std::copy(p, p + width, y);
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = ids ? ids[i] : i;
        if (token >= width) break;
        y[token] = std::max(p[token] - q[i], 0.0f);
    }
    const double total = sum_of(y, width);
    if (!(total > 0)) return false;
    scale(y, width, 1.0 / total);
    return true;
}

}  // namespace
