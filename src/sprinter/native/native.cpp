// Forward pass of a Llama-family model with 4- or 8-bit weights and 8-bit activations, for processors with AVX2 or more.
//
// Every row is computed by the same operations in the same order however many rows a pass holds and however many
// threads share it, so the logits of a token do not depend on the block it was verified in.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

#include "native_attention.h"
#include "native_facts.h"
#include "native_pool.h"
#include "native_products.h"
#include "native_rows.h"
#include "native_score.h"

namespace {

struct Layer {
    Matrix qkv, out, gate_up, down;
    const float *attn_norm, *mlp_norm, *q_norm, *k_norm;  // the last two may be null
};

struct Model {
    const Layer* layers;
    Matrix head;
    const float* norm;
    const void* embed;    // [vocab, hidden]
    int64_t embed_bytes;  // of one number: 4 for float32, 2 for bfloat16
    int64_t num_layers, hidden, inter, num_heads, num_kv_heads, head_dim;
    float eps;
};

struct Cache {
    float *keys, *values;   // [layer, kv_head, capacity, head_dim]
    const float* rotary;    // [capacity, head_dim / 2, cos and sin]
    int64_t capacity;
};

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
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

// Rows of the embedding, x [row, hidden].
void embed(const Model& m, const int64_t* ids, int64_t rows, float* x) {
    for (int64_t r = 0; r < rows; r++) {
        const char* from = static_cast<const char*>(m.embed) + ids[r] * m.hidden * m.embed_bytes;
        if (m.embed_bytes == 4) {
            std::memcpy(x + r * m.hidden, from, m.hidden * 4);
            continue;
        }
        for (int64_t i = 0; i < m.hidden; i++) {
            uint16_t half;
            std::memcpy(&half, from + 2 * i, 2);
            const uint32_t bits = static_cast<uint32_t>(half) << 16;
            std::memcpy(x + r * m.hidden + i, &bits, 4);
        }
    }
}

struct Scratch {
    std::vector<float> x, normed, qkv, attended, gate_up;
    Quantised q_hidden, q_heads, q_inter;
    Scratch(const Model& m, int64_t rows)
        : x(rows * m.hidden),
          normed(rows * m.hidden),
          qkv(rows * m.layers[0].qkv.rows),
          attended(rows * m.num_heads * m.head_dim),
          gate_up(rows * 2 * m.inter),
          q_hidden(rows, m.hidden),
          q_heads(rows, m.num_heads * m.head_dim),
          q_inter(rows, m.inter) {}
};

void norm_and_quantise(const Model& m, const float* x, const float* weight, int64_t rows, Scratch& s) {
    pool().each(rows, 16, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) {
            rms_norm(x + r * m.hidden, weight, m.hidden, m.eps, &s.normed[r * m.hidden]);
            quantise_row(&s.normed[r * m.hidden], r, s.q_hidden);
        }
    });
}

// Queries rotated in place, keys and values written to the cache.
void place_heads(const Model& m, const Layer& layer, Cache c, int64_t start, int64_t rows, Scratch& s) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    const auto place = [&](int64_t item) {
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
    };
    pool().each(rows * num_heads, 32, [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; item++) place(item);
    });
}

void attend_all(const Model& m, Cache c, int64_t start, int64_t rows, Scratch& s) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    const int64_t grain = std::max<int64_t>(1, kWorthwhile / (2 * dim * (start + rows)));
    const bool whole_groups = dim % kGroup == 0;  // else a group of activations holds parts of two heads
    pool().each(rows * m.num_heads, grain, [&](int64_t first, int64_t last) {
        std::vector<float> scores(start + rows + kLanes);
        for (int64_t item = first; item < last; item++) {
            // Heads vary slowest: later rows see more, and this way every piece gets rows of every length.
            const int64_t r = item % rows, head = item / rows;
            const int64_t offset = head / (m.num_heads / m.num_kv_heads) * c.capacity * dim;
            float* const y = &s.attended[(r * m.num_heads + head) * dim];
            attend(&s.qkv[(r * num_heads + head) * dim], c.keys + offset, c.values + offset, start + r + 1, dim,
                   scores.data(), y);
            if (whole_groups)
                for (int64_t i = 0; i < dim; i += kGroup)
                    quantise_group(y + i, s.q_heads.at(r, (head * dim + i) / kGroup), s.q_heads);
        }
    });
    if (whole_groups) return;
    for (int64_t r = 0; r < rows; r++) quantise_row(&s.attended[r * m.num_heads * dim], r, s.q_heads);
}

// y = silu(gate) * up, 8 numbers.
inline void gated(const float* gate, const float* up, float* y) {
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f), z = _mm256_loadu_ps(gate);
    const __m256 e = exponential(_mm256_or_ps(z, sign));
    const __m256 above = _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_GE_OQ);
    const __m256 silu = _mm256_div_ps(_mm256_mul_ps(z, _mm256_blendv_ps(e, one, above)), _mm256_add_ps(one, e));
    _mm256_storeu_ps(y, _mm256_mul_ps(silu, _mm256_loadu_ps(up)));
}

void activate(const Model& m, int64_t rows, Scratch& s) {
    const int64_t groups = m.inter / kGroup;
    pool().each(rows * groups, 256, [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; item++) {
            const float* gate = &s.gate_up[item / groups * 2 * m.inter + item % groups * kGroup];
            float product[kGroup];
            for (int i = 0; i < kGroup; i += kLanes) gated(gate + i, gate + m.inter + i, product + i);
            quantise_group(product, s.q_inter.at(item / groups, item % groups), s.q_inter);
        }
    });
}

}  // namespace

extern "C" {

// Computes with AVX2 (level 0) or AVX512-VNNI (1) from now on; false, and nothing changes, where that cannot be.
bool sprinter_use_level(int level) {
    const Tiles* tiles = tiles_of(level);
    if (tiles) chosen_tiles().store(tiles);
    return tiles != nullptr;
}

// y = x W^T + b with x [rows, columns] in 8 bits per group; for tests.
void sprinter_multiply(const Matrix* matrix, const float* x, int64_t rows, float* y, int num_threads) {
    std::lock_guard<std::mutex> lock(pool().in_use);
    pool().wake(num_threads);
    Quantised quantised(rows, matrix->columns);
    for (int64_t r = 0; r < rows; r++) quantise_row(x + r * matrix->columns, r, quantised);
    multiply(*matrix, quantised, rows, y, false);
}

// Runs tokens ids [rows] at positions start, start + 1, ...; writes the last `num_last` rows of hidden states
// [num_last, hidden], logits [num_last, head rows] and facts [num_last]. False where a row of logits is not finite.
bool sprinter_forward(const Model* model, const Cache* cache, const int64_t* ids, int64_t rows, int64_t start,
                      int64_t num_last, float* hidden, float* logits, Facts* facts, int num_threads) {
    const Model& m = *model;
    const int64_t layer_floats = m.num_kv_heads * cache->capacity * m.head_dim;
    std::lock_guard<std::mutex> lock(pool().in_use);
    pool().wake(num_threads);
    Scratch s(m, rows);
    float* const x = s.x.data();
    embed(m, ids, rows, x);
    for (int64_t i = 0; i < m.num_layers; i++) {
        const Layer& layer = m.layers[i];
        const Cache c = {cache->keys + i * layer_floats, cache->values + i * layer_floats, cache->rotary,
                         cache->capacity};
        norm_and_quantise(m, x, layer.attn_norm, rows, s);
        multiply(layer.qkv, s.q_hidden, rows, s.qkv.data(), false);
        place_heads(m, layer, c, start, rows, s);
        attend_all(m, c, start, rows, s);
        multiply(layer.out, s.q_heads, rows, x, true);
        norm_and_quantise(m, x, layer.mlp_norm, rows, s);
        multiply(layer.gate_up, s.q_hidden, rows, s.gate_up.data(), false);
        activate(m, rows, s);
        multiply(layer.down, s.q_inter, rows, x, true);
    }
    if (num_last == 0) return true;
    norm_and_quantise(m, x + (rows - num_last) * m.hidden, m.norm, num_last, s);
    std::memcpy(hidden, s.normed.data(), num_last * m.hidden * sizeof(float));
    multiply(m.head, s.q_hidden, num_last, logits, false);
    return find_facts(logits, num_last, m.head.rows, facts);
}

// log min(epsilon, delta exp(-H)) + logsumexp of logits [width], with the logarithms of epsilon and delta.
double sprinter_typical_floor(const float* logits, int64_t width, double log_epsilon, double log_delta) {
    const float peak = peaks_of(logits, width).first;
    const Moments found = moments_of(logits, width, peak);
    return peak + found.log_total + std::min(log_epsilon, log_delta - found.entropy);
}

double sprinter_mass_below(const float* probs, const float* logits, int64_t width, float floor) {
    return mass_below(probs, logits, width, floor);
}

void sprinter_softmax(const float* logits, int64_t width, float temperature, float* probs) {
    soften(logits, width, temperature, probs);
}

int64_t sprinter_draw(const float* probs, int64_t width, double point) { return draw(probs, width, point); }

bool sprinter_residual(const float* p, int64_t width, const float* q, const int64_t* ids, int64_t count, float* y) {
    return remains(p, width, q, ids, count, y);
}

// y = W x + b.
void sprinter_dense(const Dense* layer, const float* x, float* y) { dense(*layer, x, layer->bias, y); }

double sprinter_score(const Scorer* scorer, const float* logits, const float* probs, const int64_t* ids,
                      const float* hidden, const float* known, int64_t width, int64_t token, int64_t place_in_draft,
                      double chance, double previous, int64_t echo_same, int64_t echo_other) {
    return score(*scorer, {logits, probs, ids, hidden, known, width, token, place_in_draft, chance, previous,
                           static_cast<double>(echo_same), static_cast<double>(echo_other)});
}

// The scalar features alone, to [9]; for tests.
void sprinter_describe(const float* logits, const int64_t* ids, int64_t width, int64_t token, int64_t place_in_draft,
                       double chance, double previous, float* to) {
    describe({logits, nullptr, ids, nullptr, nullptr, width, token, place_in_draft, chance, previous, 0.0, 0.0}, to);
}
}
