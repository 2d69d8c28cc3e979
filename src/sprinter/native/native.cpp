// Forward pass of a Llama-family model with 4- or 8-bit weights and 8-bit activations, for processors with AVX2 or more.
//
// Every row is computed by the same operations in the same order however many rows a pass holds, whatever texts they are
// of, on a line or on a branch, and however many threads share it: a token's logits do not depend on its company.

#include <algorithm>
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

constexpr int64_t kChunk = 256;  // rows computed at once; bounds the scratch memory of a long prompt

struct Layer {
    Matrix qkv, out, gate_up, down;                        // a block whose first matrix has no rows is left out
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

// What one text adds to a pass.
struct Part {
    float *keys, *values;    // of its cache, [layer, kv_head, capacity, head_dim]
    const int64_t* tokens;   // [rows]
    const int64_t* parents;  // [loose + rows], of the cache's loose rows and of these; null for a chain behind the line
    int64_t capacity, length, loose, rows;
    int64_t wanted;  // of the last rows
};

// A row sees the first `line` slots, then `num_branch` slots, itself the last, from `branch` on in the plan.
struct Row {
    const Part* part;
    int64_t token, position, slot;
    int64_t line, branch, num_branch;
    bool wanted;

    int64_t seen() const { return line + num_branch; }
};

struct Plan {
    std::vector<Row> rows;
    std::vector<int64_t> branches;  // slots
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

void plan_part(const Part& part, Plan& plan) {
    const int64_t end = part.loose + part.rows;
    int64_t trunk = 0;  // loose rows that go on with the line
    while (trunk < end && (!part.parents || part.parents[trunk] == trunk - 1)) trunk++;
    for (int64_t own = part.loose; own < end; own++) {
        const auto branch = static_cast<int64_t>(plan.branches.size());
        int64_t at = own;
        for (; at >= trunk; at = part.parents[at]) plan.branches.push_back(part.length + at);
        std::reverse(plan.branches.begin() + branch, plan.branches.end());
        const int64_t line = part.length + at + 1, num_branch = static_cast<int64_t>(plan.branches.size()) - branch;
        plan.rows.push_back({&part, part.tokens[own - part.loose], line + num_branch - 1, part.length + own, line, branch,
                             num_branch, own >= end - part.wanted});
    }
}

// Rows of the embedding, x [row, hidden].
void embed(const Model& m, const Row* rows, int64_t count, float* x) {
    for (int64_t r = 0; r < count; r++) {
        const char* from = static_cast<const char*>(m.embed) + rows[r].token * m.hidden * m.embed_bytes;
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

// Where the keys or values of one head of one layer begin in a cache.
inline int64_t head_offset(const Model& m, const Part& part, int64_t layer, int64_t kv_head) {
    return (layer * m.num_kv_heads + kv_head) * part.capacity * m.head_dim;
}

// Queries rotated in place, keys and values written to the caches.
void place_heads(const Model& m, int64_t layer, const float* rotary, const Row* rows, int64_t count, Scratch& s) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    const Layer& own = m.layers[layer];
    const auto place = [&](int64_t item) {
        const Row& row = rows[item / num_heads];
        const int64_t head = item % num_heads;
        float* x = &s.qkv[item * dim];
        const float* turn = rotary + row.position * dim;
        if (head < m.num_heads) {
            float turned[512];
            rotate(x, own.q_norm, turn, dim, m.eps, turned);
            std::memcpy(x, turned, dim * sizeof(float));
            return;
        }
        const bool is_key = head < m.num_heads + m.num_kv_heads;
        const int64_t kv_head = head - m.num_heads - (is_key ? 0 : m.num_kv_heads);
        const int64_t at = head_offset(m, *row.part, layer, kv_head) + row.slot * dim;
        if (is_key) rotate(x, own.k_norm, turn, dim, m.eps, row.part->keys + at);
        else std::memcpy(row.part->values + at, x, dim * sizeof(float));
    };
    pool().each(count * num_heads, 32, [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; item++) place(item);
    });
}

void attend_all(const Model& m, int64_t layer, const Plan& plan, const Row* rows, int64_t count, Scratch& s) {
    const int64_t dim = m.head_dim, num_heads = m.num_heads + 2 * m.num_kv_heads;
    int64_t most_seen = 0;
    for (int64_t r = 0; r < count; r++) most_seen = std::max(most_seen, rows[r].seen());
    const int64_t grain = std::max<int64_t>(1, kWorthwhile / (2 * dim * most_seen));
    const bool whole_groups = dim % kGroup == 0;  // else a group of activations holds parts of two heads
    pool().each(count * m.num_heads, grain, [&](int64_t first, int64_t last) {
        std::vector<float> scores(most_seen + kLanes);
        for (int64_t item = first; item < last; item++) {
            // Heads vary slowest: rows see more or less, and this way every piece gets rows of every length.
            const int64_t r = item % count, head = item / count;
            const Row& row = rows[r];
            const int64_t at = head_offset(m, *row.part, layer, head / (m.num_heads / m.num_kv_heads));
            const Heads seen = {row.part->keys + at, row.part->values + at, row.seen(), dim};
            const float* const q = &s.qkv[(r * num_heads + head) * dim];
            float* const y = &s.attended[(r * m.num_heads + head) * dim];
            if (row.num_branch == 0) attend(q, seen, InLine{}, scores.data(), y);
            else attend(q, seen, OnBranch{row.line, &plan.branches[row.branch]}, scores.data(), y);
            if (whole_groups)
                for (int64_t i = 0; i < dim; i += kGroup)
                    quantise_group(y + i, s.q_heads.at(r, (head * dim + i) / kGroup), s.q_heads);
        }
    });
    if (whole_groups) return;
    for (int64_t r = 0; r < count; r++) quantise_row(&s.attended[r * m.num_heads * dim], r, s.q_heads);
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

// All layers on the embeddings of rows [count]; leaves the residual stream in s.x.
void run_layers(const Model& m, const float* rotary, const Plan& plan, const Row* rows, int64_t count, Scratch& s) {
    float* const x = s.x.data();
    embed(m, rows, count, x);
    for (int64_t i = 0; i < m.num_layers; i++) {
        const Layer& layer = m.layers[i];
        if (layer.qkv.rows) {
            norm_and_quantise(m, x, layer.attn_norm, count, s);
            multiply(layer.qkv, s.q_hidden, count, s.qkv.data(), false);
            place_heads(m, i, rotary, rows, count, s);
            attend_all(m, i, plan, rows, count, s);
            multiply(layer.out, s.q_heads, count, x, true);
        }
        if (layer.gate_up.rows) {
            norm_and_quantise(m, x, layer.mlp_norm, count, s);
            multiply(layer.gate_up, s.q_hidden, count, s.gate_up.data(), false);
            activate(m, count, s);
            multiply(layer.down, s.q_inter, count, x, true);
        }
    }
}

// Moves the wanted rows of the residual stream to its beginning; how many there are.
int64_t gather_wanted(const Model& m, const Row* rows, int64_t count, Scratch& s) {
    int64_t wanted = 0;
    for (int64_t r = 0; r < count; r++) {
        if (!rows[r].wanted) continue;
        if (r != wanted) std::memcpy(&s.x[wanted * m.hidden], &s.x[r * m.hidden], m.hidden * sizeof(float));
        wanted++;
    }
    return wanted;
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

// Runs the rows of all parts, whose caches must be different ones; writes hidden states [wanted, hidden], logits [wanted,
// head rows] and facts [wanted] of the wanted rows, part by part. `rotary` is [positions, head_dim / 2, cos and sin].
// False where a row of logits is not finite.
bool sprinter_forward(const Model* model, const float* rotary, const Part* const* parts, int64_t num_parts, float* hidden,
                      float* logits, Facts* facts, int num_threads) {
    const Model& m = *model;
    Plan plan;
    for (int64_t i = 0; i < num_parts; i++) plan_part(*parts[i], plan);
    const int64_t num_rows = static_cast<int64_t>(plan.rows.size());
    std::lock_guard<std::mutex> lock(pool().in_use);
    pool().wake(num_threads);
    Scratch s(m, std::min(num_rows, kChunk));
    bool finite = true;
    for (int64_t first = 0; first < num_rows; first += kChunk) {
        const Row* const rows = &plan.rows[first];
        const int64_t count = std::min(kChunk, num_rows - first);
        run_layers(m, rotary, plan, rows, count, s);
        const int64_t wanted = gather_wanted(m, rows, count, s);
        if (wanted == 0) continue;
        norm_and_quantise(m, s.x.data(), m.norm, wanted, s);
        std::memcpy(hidden, s.normed.data(), wanted * m.hidden * sizeof(float));
        multiply(m.head, s.q_hidden, wanted, logits, false);
        finite &= find_facts(logits, wanted, m.head.rows, facts);
        hidden += wanted * m.hidden;
        logits += wanted * m.head.rows;
        facts += wanted;
    }
    return finite;
}

// Facts [rows] about any logits [rows, width]; false where a row is not finite.
bool sprinter_facts(const float* logits, int64_t rows, int64_t width, Facts* facts) {
    std::lock_guard<std::mutex> lock(pool().in_use);
    pool().wake(1);
    return find_facts(logits, rows, width, facts);
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

// The score of a drafted token from the draft's hidden state, what its embedding adds (`known`, or null) and its scalars.
double sprinter_score(const Scorer* scorer, const float* hidden, const float* known, const float* scalars) {
    return score(*scorer, hidden, known, scalars);
}

// How many of x [width] are above `level`.
int64_t sprinter_count_above(const float* x, int64_t width, float level) { return count_above(x, width, level); }
}
