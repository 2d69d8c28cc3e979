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
    double second;     // the second largest entry, the largest again where two share it; -inf for a row of one
};

struct Piece {
    Peaks peaks;
    int64_t best;
    bool bad;  // NaN or +inf among the entries
    Weighed sums;
};

inline Piece look(const float* x, int64_t width) {
    const __m256 infinity = _mm256_set1_ps(INFINITY);
    __m256 bad = _mm256_setzero_ps();
    along(x, width, -INFINITY, [&](int64_t, __m256 v) { bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, infinity, _CMP_NLT_UQ)); },
          [] {});
    Piece piece = {{-INFINITY, -INFINITY}, 0, _mm256_movemask_ps(bad) != 0, {}};
    if (piece.bad) return piece;
    piece.peaks = peaks_of(x, width);
    piece.best = std::find(x, x + width, piece.peaks.first) - x;
    return piece;
}

// False, and the facts are of no use, where a row has no largest entry or one that is not finite.
inline bool find_facts(const float* logits, int64_t rows, int64_t width, Facts* facts) {
    const int64_t num_pieces = (width + kPart - 1) / kPart;
    std::vector<Piece> pieces(rows * num_pieces);
    std::vector<Peaks> peaks(rows, {-INFINITY, -INFINITY});
    const auto each = [&](const auto& use) {
        pool().each(rows * num_pieces, 1, [&](int64_t first, int64_t last) {
            for (int64_t item = first; item < last; item++) {
                const int64_t row = item / num_pieces, begin = item % num_pieces * kPart;
                use(row, pieces[item], logits + row * width + begin, std::min(kPart, width - begin));
            }
        });
    };
    each([](int64_t, Piece& piece, const float* x, int64_t count) { piece = look(x, count); });
    for (int64_t item = 0; item < rows * num_pieces; item++) {
        const int64_t row = item / num_pieces;
        if (pieces[item].bad) return false;
        const Peaks before = peaks[row], found = pieces[item].peaks;
        peaks[row].second = std::max({before.second, found.second, std::min(before.first, found.first)});
        if (!(found.first > before.first)) continue;
        peaks[row].first = found.first;
        facts[row].best = static_cast<double>(item % num_pieces * kPart + pieces[item].best);
    }
    for (const Peaks& found : peaks)
        if (found.first == -INFINITY) return false;
    each([&](int64_t row, Piece& piece, const float* x, int64_t count) { piece.sums = weigh(x, count, peaks[row].first); });
    for (int64_t row = 0; row < rows; row++) {
        Weighed sums;
        for (int64_t i = row * num_pieces; i < (row + 1) * num_pieces; i++) {
            sums.weights += pieces[i].sums.weights;
            sums.products += pieces[i].sums.products;
        }
        const Moments moments = moments_from(sums);
        facts[row].log_total = peaks[row].first + moments.log_total;
        facts[row].entropy = moments.entropy;
        facts[row].second = peaks[row].second;
    }
    return true;
}

}  // namespace
