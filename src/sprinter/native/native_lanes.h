// What runs lane by lane: an exponential and sums whose bits no compiler and no processor decides.

#pragma once

#include <immintrin.h>

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

}  // namespace
