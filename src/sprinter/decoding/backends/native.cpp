// Forward pass of a Llama-family model with 4- or 8-bit weights and 8-bit activations, for processors with AVX2.
//
// Every row is computed by the same operations in the same order however many rows a pass holds, so the logits of a
// token do not depend on the block it was verified in. Weights lie in blocks of 8 output rows, so that one register
// holds 4 inputs of each of them and no sum ever crosses lanes:
//
//   4 bit, one block and group of 32 inputs: 4 registers; byte 4*row + i of register j holds input 4*j + i in its low
//   half and input 4*(j + 4) + i in its high half;  weight = scale * code + minimum
//   8 bit: 8 registers; byte 4*row + i of register j holds input 4*j + i;  weight = scale * code
//
// Activations of a group of 32 share one float scale (largest magnitude / 127).

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kGroup = 32;
constexpr int kBlock = 8;

struct Matrix {
    const uint8_t* codes;
    const uint16_t* scales;    // float16 [block, group, 8]
    const uint16_t* minimums;  // the same; null for 8 bit
    const float* bias;         // [rows] or null
    int64_t rows, columns;
};

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *attn_norm, *mlp_norm, *q_norm, *k_norm;  // the last two may be null
};

struct Model {
    const Layer* layers;
    Matrix head;
    const float* norm;
    int64_t num_layers, hidden, inter, num_heads, num_kv_heads, head_dim;
    float eps;
};

struct Cache {
    float *keys, *values;   // [layer, kv_head, capacity, head_dim]
    const float* rotary;    // [capacity, head_dim / 2, cos and sin]
    int64_t capacity;
};

// Rows of activations in 8 bits.
struct Quantised {
    std::vector<int8_t> codes;        // [row, column]
    std::vector<float> scales, sums;  // [row, group]; sums = scale * sum of codes
    Quantised(int64_t rows, int64_t columns)
        : codes(rows * columns), scales(rows * columns / kGroup), sums(rows * columns / kGroup) {}
};

// First and one-past-last item of this thread's even share.
inline void share(int64_t items, int64_t* first, int64_t* last) {
    const int64_t threads = omp_get_num_threads(), mine = omp_get_thread_num();
    *first = items * mine / threads;
    *last = items * (mine + 1) / threads;
}

inline void quantise_group(const float* x, int8_t* codes, float* scale, float* sum) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4], largest = _mm256_setzero_ps(), probe = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, v[i]));
        probe = _mm256_fmadd_ps(v[i], _mm256_setzero_ps(), probe);
    }
    float lanes[8], probes[8], most = 0.0f;
    _mm256_storeu_ps(lanes, largest);
    _mm256_storeu_ps(probes, probe);
    for (int i = 0; i < 8; i++) {
        if (lanes[i] > most) most = lanes[i];
        // A NaN or infinity must reach the logits, where it is reported; codes cannot carry one.
        if (probes[i] != 0.0f) {
            *scale = *sum = probes[i];
            std::memset(codes, 0, kGroup);
            return;
        }
    }
    *scale = most / 127.0f;
    const __m256 inverse = _mm256_set1_ps(most > 0.0f ? 127.0f / most : 0.0f);
    __m256i total = _mm256_setzero_si256(), q[4];
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        total = _mm256_add_epi32(total, q[i]);
    }
    // The two packs work within halves of registers; the permutation puts the inputs back in order.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
    int32_t totals[8], all = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(totals), total);
    for (int i = 0; i < 8; i++) all += totals[i];
    *sum = *scale * static_cast<float>(all);
}

inline __m256 halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

// 8 * `blocks` outputs of `num` rows of x, 4-bit weights. A broadcast activation serves all blocks, unpacked weights
// serve all rows: with one block alone the loads would be the bottleneck.
template <int num, int blocks>
void tile_int4(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const int64_t groups = w.columns / kGroup;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 acc[num][blocks], shift[num][blocks];
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++) acc[t][b] = shift[t][b] = _mm256_setzero_ps();
    const int8_t* a = x.codes.data() + row * w.columns;
    for (int64_t g = 0; g < groups; g++, a += kGroup) {
        // Eight sums of two products of at most 15 * 127 fit into 16 bits.
        __m256i sum[num][blocks];
        for (int t = 0; t < num; t++)
            for (int b = 0; b < blocks; b++) sum[t][b] = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256i q[blocks], r[blocks];
            for (int b = 0; b < blocks; b++) {
                const uint8_t* packed = w.codes + ((block + b) * groups + g) * (kBlock * kGroup / 2) + 32 * j;
                const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed));
                q[b] = _mm256_and_si256(bytes, low);
                r[b] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
            }
            for (int t = 0; t < num; t++) {
                const __m256i first = quad(a + t * w.columns + 4 * j), second = quad(a + t * w.columns + 4 * j + 16);
                for (int b = 0; b < blocks; b++) {
                    sum[t][b] = _mm256_add_epi16(sum[t][b], _mm256_maddubs_epi16(q[b], first));
                    sum[t][b] = _mm256_add_epi16(sum[t][b], _mm256_maddubs_epi16(r[b], second));
                }
            }
        }
        for (int b = 0; b < blocks; b++) {
            const int64_t at = ((block + b) * groups + g) * kBlock;
            const __m256 scale = halves(w.scales + at), minimum = halves(w.minimums + at);
            for (int t = 0; t < num; t++) {
                const int64_t s = (row + t) * groups + g;
                const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[t][b], ones));
                acc[t][b] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[s])), acc[t][b]);
                shift[t][b] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sums[s]), shift[t][b]);
            }
        }
    }
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++)
            _mm256_storeu_ps(out + (t * blocks + b) * kBlock, _mm256_add_ps(acc[t][b], shift[t][b]));
}

// The same for 8-bit weights.
template <int num, int blocks>
void tile_int8(const Matrix& w, int64_t block, const Quantised& x, int64_t row, float* out) {
    const int64_t groups = w.columns / kGroup;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[num][blocks];
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++) acc[t][b] = _mm256_setzero_ps();
    const int8_t* a = x.codes.data() + row * w.columns;
    for (int64_t g = 0; g < groups; g++, a += kGroup) {
        __m256i sum[num][blocks];
        for (int t = 0; t < num; t++)
            for (int b = 0; b < blocks; b++) sum[t][b] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            __m256i q[blocks], magnitude[blocks];
            for (int b = 0; b < blocks; b++) {
                const uint8_t* codes = w.codes + ((block + b) * groups + g) * (kBlock * kGroup) + 32 * j;
                q[b] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
                // maddubs takes one unsigned side: |weight|, its sign moved onto the activation.
                magnitude[b] = _mm256_abs_epi8(q[b]);
            }
            for (int t = 0; t < num; t++) {
                const __m256i four = quad(a + t * w.columns + 4 * j);
                for (int b = 0; b < blocks; b++) {
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude[b], _mm256_sign_epi8(four, q[b]));
                    sum[t][b] = _mm256_add_epi32(sum[t][b], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for (int b = 0; b < blocks; b++) {
            const __m256 scale = halves(w.scales + ((block + b) * groups + g) * kBlock);
            for (int t = 0; t < num; t++) {
                const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[(row + t) * groups + g]));
                acc[t][b] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][b]), factor, acc[t][b]);
            }
        }
    }
    for (int t = 0; t < num; t++)
        for (int b = 0; b < blocks; b++) _mm256_storeu_ps(out + (t * blocks + b) * kBlock, acc[t][b]);
}

constexpr int kRows = 4;    // rows of one tile
constexpr int kBlocks = 2;  // blocks of one tile

using TileFn = void (*)(const Matrix&, int64_t, const Quantised&, int64_t, float*);
const TileFn kInt4[kBlocks][kRows] = {
    {tile_int4<1, 1>, tile_int4<2, 1>, tile_int4<3, 1>, tile_int4<4, 1>},
    {tile_int4<1, 2>, tile_int4<2, 2>, tile_int4<3, 2>, tile_int4<4, 2>},
};
const TileFn kInt8[kBlocks][kRows] = {
    {tile_int8<1, 1>, tile_int8<2, 1>, tile_int8<3, 1>, tile_int8<4, 1>},
    {tile_int8<1, 2>, tile_int8<2, 2>, tile_int8<3, 2>, tile_int8<4, 2>},
};

// This thread's share of y (+)= x W^T + b for `rows` rows; y has `stride` floats per row.
void multiply(const Matrix& w, const Quantised& x, int64_t rows, float* y, int64_t stride, bool add) {
    int64_t first, last;
    share((w.rows + kBlock - 1) / kBlock, &first, &last);
    float out[kRows * kBlocks * kBlock];
    for (int64_t block = first; block < last; block += kBlocks) {
        const int blocks = static_cast<int>(std::min<int64_t>(kBlocks, last - block));
        const int64_t begin = block * kBlock, width = std::min<int64_t>(blocks * kBlock, w.rows - begin);
        for (int64_t row = 0; row < rows; row += kRows) {
            const int num = static_cast<int>(std::min<int64_t>(kRows, rows - row));
            (w.minimums ? kInt4 : kInt8)[blocks - 1][num - 1](w, block, x, row, out);
            for (int t = 0; t < num; t++) {
                float* to = y + (row + t) * stride + begin;
                for (int64_t i = 0; i < width; i++) {
                    const float value = out[t * blocks * kBlock + i] + (w.bias ? w.bias[begin + i] : 0.0f);
                    to[i] = add ? to[i] + value : value;
                }
            }
        }
    }
}

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
}

inline void quantise_row(const float* x, int64_t row, int64_t columns, Quantised& q) {
    const int64_t groups = columns / kGroup;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t at = row * groups + g;
        quantise_group(x + g * kGroup, &q.codes[at * kGroup], &q.scales[at], &q.sums[at]);
    }
}

// Cephes' expf without its special cases; arguments are at most 0.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float whole = std::floor(x * 1.44269504f + 0.5f);
    const float r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

// One query head of one row over positions 0 .. length - 1; overwrites y [head_dim].
void attend(const float* q, const float* keys, const float* values, int64_t length, int64_t dim, float* scores, float* y) {
    const float factor = 1.0f / std::sqrt(static_cast<float>(dim));
    float largest = -INFINITY;
    for (int64_t i = 0; i < length; i++) {
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t d = 0; d < dim; d++) dot += q[d] * keys[i * dim + d];
        scores[i] = dot * factor;
        if (scores[i] > largest) largest = scores[i];
    }
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < length; i++) {
        scores[i] = exponential(scores[i] - largest);
        total += scores[i];
    }
    for (int64_t d = 0; d < dim; d++) y[d] = 0.0f;
    for (int64_t i = 0; i < length; i++) {
        const float weight = scores[i];
        for (int64_t d = 0; d < dim; d++) y[d] += weight * values[i * dim + d];
    }
    for (int64_t d = 0; d < dim; d++) y[d] /= total;
}

// Norm (if any) and rotation of one head, from x to y.
void rotate(const float* x, const float* norm, const float* rotary, int64_t dim, float eps, float* y) {
    float normed[512];
    if (norm) {
        rms_norm(x, norm, dim, eps, normed);
        x = normed;
    }
    for (int64_t i = 0; i < dim / 2; i++) {
        const float re = x[2 * i], im = x[2 * i + 1], c = rotary[2 * i], s = rotary[2 * i + 1];
        y[2 * i] = re * c - im * s;
        y[2 * i + 1] = re * s + im * c;
    }
}

struct Scratch {
    std::vector<float> normed, qkv, attended, gate_up;
    Quantised q_hidden, q_heads, q_inter;
    Scratch(const Model& m, int64_t rows)
        : normed(rows * m.hidden),
          qkv(rows * m.layers[0].qkv.rows),
          attended(rows * m.num_heads * m.head_dim),
          gate_up(rows * 2 * m.inter),
          q_hidden(rows, m.hidden),
          q_heads(rows, m.num_heads * m.head_dim),
          q_inter(rows, m.inter) {}
};

void norm_and_quantise(const Model& m, const float* x, const float* weight, int64_t rows, Scratch& s) {
    int64_t first, last;
    share(rows, &first, &last);
    for (int64_t r = first; r < last; r++) {
        rms_norm(x + r * m.hidden, weight, m.hidden, m.eps, &s.normed[r * m.hidden]);
        quantise_row(&s.normed[r * m.hidden], r, m.hidden, s.q_hidden);
    }
}

// Queries rotated in place, keys and values written to the cache.
void place_heads(const Model& m, const Layer& layer, Cache c, int64_t start, int64_t rows, Scratch& s) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    int64_t first, last;
    share(rows * num_heads, &first, &last);
    for (int64_t item = first; item < last; item++) {
        const int64_t position = start + item / num_heads, head = item % num_heads;
        float* x = &s.qkv[item * dim];
        const float* rotary = c.rotary + position * dim;
        if (head < m.num_heads) {
            float turned[512];
            rotate(x, layer.q_norm, rotary, dim, m.eps, turned);
            std::memcpy(x, turned, dim * sizeof(float));
        } else if (head < m.num_heads + m.num_kv_heads) {
            rotate(x, layer.k_norm, rotary, dim, m.eps, c.keys + ((head - m.num_heads) * c.capacity + position) * dim);
        } else {
            const int64_t kv_head = head - m.num_heads - m.num_kv_heads;
            std::memcpy(c.values + (kv_head * c.capacity + position) * dim, x, dim * sizeof(float));
        }
    }
}

void attend_all(const Model& m, Cache c, int64_t start, int64_t rows, Scratch& s, std::vector<float>& scores) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    int64_t first, last;
    // Heads vary slowest: later rows see more, and this way both threads get rows of every length.
    share(rows * m.num_heads, &first, &last);
    for (int64_t item = first; item < last; item++) {
        const int64_t r = item % rows, head = item / rows;
        const int64_t offset = head / (m.num_heads / m.num_kv_heads) * c.capacity * dim;
        attend(&s.qkv[(r * num_heads + head) * dim], c.keys + offset, c.values + offset, start + r + 1, dim,
               scores.data(), &s.attended[(r * m.num_heads + head) * dim]);
    }
}

void quantise_all(const std::vector<float>& x, int64_t rows, int64_t columns, Quantised& q) {
    int64_t first, last;
    share(rows * (columns / kGroup), &first, &last);
    for (int64_t g = first; g < last; g++)
        quantise_group(&x[g * kGroup], &q.codes[g * kGroup], &q.scales[g], &q.sums[g]);
}

void activate(const Model& m, int64_t rows, Scratch& s) {
    const int64_t groups = m.inter / kGroup;
    int64_t first, last;
    share(rows * groups, &first, &last);
    for (int64_t item = first; item < last; item++) {
        const float* gate = &s.gate_up[item / groups * 2 * m.inter + item % groups * kGroup];
        float product[kGroup];
        for (int i = 0; i < kGroup; i++) {
            const float z = gate[i], e = exponential(-std::fabs(z));
            product[i] = z * (z >= 0.0f ? 1.0f : e) / (1.0f + e) * gate[m.inter + i];
        }
        quantise_group(product, &s.q_inter.codes[item * kGroup], &s.q_inter.scales[item], &s.q_inter.sums[item]);
    }
}

}  // namespace

extern "C" {

// y = x W^T + b with x [rows, columns] in 8 bits per group; for tests.
void sprinter_multiply(const Matrix* matrix, const float* x, int64_t rows, float* y, int num_threads) {
    Quantised quantised(rows, matrix->columns);
    for (int64_t r = 0; r < rows; r++) quantise_row(x + r * matrix->columns, r, matrix->columns, quantised);
#pragma omp parallel num_threads(num_threads)
    multiply(*matrix, quantised, rows, y, matrix->rows, false);
}

// Runs `rows` rows x [row, hidden] (overwritten) at positions start, start + 1, ...; writes the last `num_last` rows
// of hidden states [num_last, hidden] and logits [num_last, head rows].
void sprinter_forward(const Model* model, const Cache* cache, float* x, int64_t rows, int64_t start, int64_t num_last,
                      float* hidden, float* logits, int num_threads) {
    const Model& m = *model;
    const int64_t layer_floats = m.num_kv_heads * cache->capacity * m.head_dim;
    Scratch s(m, rows);
#pragma omp parallel num_threads(num_threads)
    {
        std::vector<float> scores(start + rows);
        for (int64_t i = 0; i < m.num_layers; i++) {
            const Layer& layer = m.layers[i];
            const Cache c = {cache->keys + i * layer_floats, cache->values + i * layer_floats, cache->rotary,
                             cache->capacity};
            norm_and_quantise(m, x, layer.attn_norm, rows, s);
#pragma omp barrier
            multiply(layer.qkv, s.q_hidden, rows, s.qkv.data(), layer.qkv.rows, false);
#pragma omp barrier
            place_heads(m, layer, c, start, rows, s);
#pragma omp barrier
            attend_all(m, c, start, rows, s, scores);
#pragma omp barrier
            quantise_all(s.attended, rows, m.num_heads * m.head_dim, s.q_heads);
#pragma omp barrier
            multiply(layer.out, s.q_heads, rows, x, m.hidden, true);
#pragma omp barrier
            norm_and_quantise(m, x, layer.mlp_norm, rows, s);
#pragma omp barrier
            multiply(layer.gate_up, s.q_hidden, rows, s.gate_up.data(), layer.gate_up.rows, false);
#pragma omp barrier
            activate(m, rows, s);
#pragma omp barrier
            multiply(layer.down, s.q_inter, rows, x, m.hidden, true);
#pragma omp barrier
        }
        const int64_t skipped = rows - num_last;
        norm_and_quantise(m, x + skipped * m.hidden, m.norm, num_last, s);
#pragma omp barrier
#pragma omp single nowait
        std::memcpy(hidden, s.normed.data(), num_last * m.hidden * sizeof(float));
        multiply(m.head, s.q_hidden, num_last, logits, m.head.rows, false);
    }
}
}
