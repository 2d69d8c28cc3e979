// Forward pass of a Llama-family model with 4- or 8-bit weights and 8-bit activations, for processors with AVX2 or more.
//
// Every row is computed by the same operations in the same order however many rows a pass holds and however many
// threads share it, so the logits of a token do not depend on the block it was verified in.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

#include "native_pool.h"
#include "native_products.h"

namespace {

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

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
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
    for (int64_t item = 0; item < rows * num_heads; item++) {
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

void attend_all(const Model& m, Cache c, int64_t start, int64_t rows, Scratch& s) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    const int64_t grain = std::max<int64_t>(1, kWorthwhile / (2 * dim * (start + rows)));
    pool().each(rows * m.num_heads, grain, [&](int64_t first, int64_t last) {
        std::vector<float> scores(start + rows);
        for (int64_t item = first; item < last; item++) {
            // Heads vary slowest: later rows see more, and this way every piece gets rows of every length.
            const int64_t r = item % rows, head = item / rows;
            const int64_t offset = head / (m.num_heads / m.num_kv_heads) * c.capacity * dim;
            attend(&s.qkv[(r * num_heads + head) * dim], c.keys + offset, c.values + offset, start + r + 1, dim,
                   scores.data(), &s.attended[(r * m.num_heads + head) * dim]);
        }
    });
    for (int64_t r = 0; r < rows; r++)
        quantise_row(&s.attended[r * m.num_heads * dim], r, s.q_heads);
}

void activate(const Model& m, int64_t rows, Scratch& s) {
    const int64_t groups = m.inter / kGroup;
    pool().each(rows * groups, 256, [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; item++) {
            const float* gate = &s.gate_up[item / groups * 2 * m.inter + item % groups * kGroup];
            float product[kGroup];
            for (int i = 0; i < kGroup; i++) {
                const float z = gate[i], e = exponential(-std::fabs(z));
                product[i] = z * (z >= 0.0f ? 1.0f : e) / (1.0f + e) * gate[m.inter + i];
            }
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

// Runs `rows` rows x [row, hidden] (overwritten) at positions start, start + 1, ...; writes the last `num_last` rows
// of hidden states [num_last, hidden] and logits [num_last, head rows].
void sprinter_forward(const Model* model, const Cache* cache, float* x, int64_t rows, int64_t start, int64_t num_last,
                      float* hidden, float* logits, int num_threads) {
    const Model& m = *model;
    const int64_t layer_floats = m.num_kv_heads * cache->capacity * m.head_dim;
    std::lock_guard<std::mutex> lock(pool().in_use);
    pool().wake(num_threads);
    Scratch s(m, rows);
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
    if (num_last == 0) return;
    norm_and_quantise(m, x + (rows - num_last) * m.hidden, m.norm, num_last, s);
    std::memcpy(hidden, s.normed.data(), num_last * m.hidden * sizeof(float));
    multiply(m.head, s.q_hidden, num_last, logits, false);
}
}
