// The tiles of native_avx2.h for processors with AVX512-VNNI: the same sums, the same float operations, the same results.

#pragma once

#include "native_avx2.h"

#define SPRINTER_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

namespace {

SPRINTER_VNNI inline __m512 wide_halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

template <int num>
SPRINTER_VNNI void vnni_int4(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512 acc[num], shift[num];
    for (int t = 0; t < num; t++) acc[t] = shift[t] = _mm512_setzero_ps();
    int64_t at = x.at(row, 0), from = block * x.groups;
    for (int64_t g = 0; g < x.groups; g++, at += kPanel, from++) {
        const uint8_t* codes = w.codes + from * (kBlock * kGroup / 2);
        const int8_t* a = &x.codes[at * kGroup];
        __m512i sum[num];
        for (int t = 0; t < num; t++) sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            prefetch(codes + 64 * j);
            const __m512i packed = _mm512_loadu_si512(codes + 64 * j);
            const __m512i q = _mm512_and_si512(packed, low);
            const __m512i r = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
            for (int t = 0; t < num; t++) {
                sum[t] = _mm512_dpbusd_epi32(sum[t], q, _mm512_set1_epi32(four_at(a + t * kGroup + 4 * j)));
                sum[t] = _mm512_dpbusd_epi32(sum[t], r, _mm512_set1_epi32(four_at(a + t * kGroup + 4 * j + 16)));
            }
        }
        const __m512 scale = wide_halves(w.scales + from * kBlock), minimum = wide_halves(w.minimums + from * kBlock);
        for (int t = 0; t < num; t++) {
            const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at + t]));
            acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), factor, acc[t]);
            shift[t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[at + t]), shift[t]);
        }
    }
    for (int t = 0; t < num; t++) _mm512_storeu_ps(out + t * kBlock, _mm512_add_ps(acc[t], shift[t]));
}

template <int num>
SPRINTER_VNNI void vnni_int8(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512 acc[num];
    for (int t = 0; t < num; t++) acc[t] = _mm512_setzero_ps();
    int64_t at = x.at(row, 0), from = block * x.groups;
    for (int64_t g = 0; g < x.groups; g++, at += kPanel, from++) {
        const uint8_t* codes = w.codes + from * (kBlock * kGroup);
        const int8_t* a = &x.codes[at * kGroup];
        __m512i sum[num];
        for (int t = 0; t < num; t++) sum[t] = _mm512_set1_epi32(x.offsets[at + t]);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            prefetch(codes + 64 * j);
            // The instruction takes one unsigned side: code + 128, for which the sums began 128 * activations lower.
            const __m512i q = _mm512_xor_si512(_mm512_loadu_si512(codes + 64 * j), flip);
            for (int t = 0; t < num; t++)
                sum[t] = _mm512_dpbusd_epi32(sum[t], q, _mm512_set1_epi32(four_at(a + t * kGroup + 4 * j)));
        }
        const __m512 scale = wide_halves(w.scales + from * kBlock);
        for (int t = 0; t < num; t++) {
            const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at + t]));
            acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), factor, acc[t]);
        }
    }
    for (int t = 0; t < num; t++) _mm512_storeu_ps(out + t * kBlock, acc[t]);
}

}  // namespace
