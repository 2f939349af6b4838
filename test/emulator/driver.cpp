// Calls every function of the interface with shapes that are odd, even, empty and ragged, in both dtypes, aligned and
// not: for builds under sanitizers, which report what is wrong. Numbers are checked elsewhere (test/kernels).
// Prints the name of each function called; the exit status is 1 after the first failure.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "calls.h"
#include "neftune.h"

namespace {

// ------------------------------------------------------------------ one function a group

void memory() {
  char text[8192];
  check(nt_probe(text, sizeof text), "nt_probe");
  CALL(nt_describe, text, int64_t(sizeof text));
  constexpr int64_t n = 1027;
  float *x = floats(n), host[n];
  auto *y = static_cast<char *>(bytes(4 * n));
  int64_t length;
  CALL(nt_timeline_mark, 0);
  CALL(nt_copy, y, x, 4 * n);
  const nt_copied_block block = {y, x, 2, 4, 8};
  CALL(nt_copy_blocks, &block, 1);
  CALL(nt_timeline_mark, -1);
  CALL(nt_timeline_read, text, int64_t(sizeof text), &length);
  CALL(nt_copy_to_host, host, y, 4 * n);
  check(nt_select(context), "nt_select");
  void *pinned = nullptr;
  CALL(nt_host_malloc, 4 * n, &pinned);
  CALL(nt_copy_to_host_later, pinned, y, 4 * n);
  check(nt_synchronize(context), "nt_synchronize");
  CALL(nt_host_free, pinned);
  CALL(nt_matmul_choices, text, int64_t(sizeof text), &length);
  CALL(nt_use_matmul_choices, text);
  for (int32_t from : {NT_F32, NT_BF16, NT_F16}) {
    for (int32_t to : kDtypes) {
      for (int64_t offset : {0, 1}) {
        const int64_t count = n - offset;
        char *destination = y + offset * size_of(to);
        CALL(nt_cast, destination, to, reinterpret_cast<char *>(x) + offset * size_of(from), from, count / 2);
        CALL(nt_upload, destination, to, reinterpret_cast<char *>(host) + 1, from, count / 2);
      }
    }
  }
  for (int32_t dtype : kDtypes)
    for (int32_t kind : {NT_RANDOM_UNIFORM, NT_RANDOM_NORMAL})
      for (int64_t count : {0, 1, 6, 1027}) CALL(nt_random, dtype, y, count, kind, 0.5f, 7, 3, 0);
  void *mapped = nullptr;
  int64_t mapped_bytes = 0;
  int32_t is_device = 0;
  CALL(nt_file_map, "/proc/self/exe", &mapped, &mapped_bytes, &is_device);
  CALL(nt_upload, y, NT_F32, mapped, NT_BF16, n);
  CALL(nt_file_forget, mapped, mapped_bytes);
  CALL(nt_file_unmap, mapped, mapped_bytes);
}

const int32_t kBorders[] = {0, 1, 6, 23, 37};  // ragged samples of 37 tokens
constexpr int64_t kSamples = 4, kTokens = 37;
const float kScales[] = {0.1f, 0.0f, 2.0f, 0.5f};
const int64_t kDraws[] = {0, 5, int64_t(1) << 33, 1};

void embedding() {
  constexpr int64_t V = 19;
  for (int32_t dtype : kDtypes) {
    for (int64_t H : {1, 64, 66, 259}) {
      for (int32_t table_dtype : kDtypes) {
        void *table = numbers(table_dtype, V * H), *y = bytes(kTokens * H * size_of(dtype));
        int32_t *tokens = ids(kTokens, V);
        for (int32_t noise : {NT_NOISE_NONE, NT_NOISE_UNIFORM, NT_NOISE_BERNOULLI, NT_NOISE_GAUSSIAN})
          CALL(nt_embedding_forward, dtype, y, table, table_dtype, tokens, kTokens, H, V, noise, 11, kBorders, kScales,
               kDraws, kSamples, noise == NT_NOISE_UNIFORM ? nullptr : floats(H));
        for (int32_t noise : {NT_NOISE_UNIFORM, NT_NOISE_BERNOULLI, NT_NOISE_GAUSSIAN})
          CALL(nt_learned_scale_backward, dtype, zeros(H), y, H, kTokens, H, noise, 11, kBorders, kScales, kDraws,
               kSamples);
        if (table_dtype == NT_F32) CALL(nt_embedding_backward, dtype, zeros(V * H), y, tokens, kTokens, H, V);
        free_arrays();
      }
    }
  }
}

void rmsnorm() {
  for (int32_t dtype : kDtypes) {
    for (int64_t H : {1, 64, 66, 1000, 4096, 9001}) {
      for (int64_t T : {0, 1, 5}) {
        if (T == 1 && H > 1000) continue;  // one block, where T = 5 has five of the same; seconds each under ThreadSanitizer
        void *x = numbers(dtype, T * H), *delta = numbers(dtype, T * H), *y = numbers(dtype, T * H);
        void *sum = numbers(dtype, T * H), *dx = numbers(dtype, T * H);
        float *rstd = zeros(T), *weight = floats(H), *dweight = zeros(H);
        CALL(nt_rmsnorm_forward, dtype, y, H, sum, rstd, x, delta, weight, T, H, 1e-5f);
        CALL(nt_rmsnorm_forward, dtype, y, H, nullptr, rstd, x, nullptr, weight, T, H, 1e-5f);
        CALL(nt_rmsnorm_backward, dtype, dx, H, dweight, y, x, weight, rstd, delta, T, H);
        CALL(nt_rmsnorm_backward, dtype, dx, H, nullptr, dx, x, weight, rstd, nullptr, T, H);
        free_arrays();
      }
    }
  }
}

void rope() {
  for (int32_t dtype : kDtypes) {
    for (int64_t head_dim : {2, 6, 64, 96, 128}) {
      for (int64_t gap : {0, 1, 8}) {
        constexpr int64_t T = 5, heads = 3, positions = 9;
        const Matrix x = matrix(dtype, T, heads * head_dim, gap);
        float *cosine = floats(positions * head_dim / 2), *sine = floats(positions * head_dim / 2);
        int32_t *at = ids(T, positions);
        for (int32_t inverse : {0, 1})
          CALL(nt_rope, dtype, x.data, x.ld, cosine, sine, at, T, heads, head_dim, inverse);
        free_arrays();
      }
    }
  }
}

void rmsnorm_rope() {
  for (int32_t dtype : kDtypes) {
    for (int64_t head_dim : {2, 6, 64, 80, 128, 256}) {
      for (int64_t gap : {0, 1, 8}) {
        constexpr int64_t T = 5, heads = 3, positions = 9;
        const Matrix x = matrix(dtype, T, heads * head_dim, gap), kept = matrix(dtype, T, heads * head_dim, gap);
        float *cosine = floats(positions * head_dim / 2), *sine = floats(positions * head_dim / 2);
        float *weight = floats(head_dim);
        int32_t *at = ids(T, positions);
        for (void *copy : {kept.data, static_cast<void *>(nullptr)})
          CALL(nt_rmsnorm_rope_forward, dtype, x.data, x.ld, copy, kept.ld, weight, cosine, sine, at, T, heads, head_dim,
               1e-6f);
        for (float *dweight : {zeros(head_dim), static_cast<float *>(nullptr)})
          CALL(nt_rmsnorm_rope_backward, dtype, x.data, x.ld, dweight, kept.data, kept.ld, weight, cosine, sine, at, T,
               heads, head_dim, 1e-6f);
        free_arrays();
      }
    }
  }
}

void swiglu_and_dropout() {
  for (int32_t dtype : kDtypes) {
    for (int64_t columns : {1, 8, 130, 1001}) {
      for (int64_t T : {int64_t(0), int64_t(1), kTokens}) {
        void *gate_up = numbers(dtype, 2 * T * columns), *h = numbers(dtype, T * columns);
        CALL(nt_swiglu_forward, dtype, h, columns, gate_up, 2 * columns, T, columns);
        CALL(nt_swiglu_backward, dtype, gate_up, 2 * columns, h, h, columns, T, columns);
        CALL(nt_swiglu_backward, dtype, gate_up, 2 * columns, nullptr, h, columns, T, columns);
        for (int64_t R : {3, 16, 48})
          CALL(nt_swiglu_backward_lora, dtype, gate_up, 2 * columns, zeros(R * columns), numbers(dtype, T * R), R, h,
               columns, T, R, columns);
        free_arrays();
      }
      void *x = numbers(dtype, kTokens * columns), *y = numbers(dtype, kTokens * columns);
      for (int32_t accumulate : {0, 1})
        CALL(nt_dropout, dtype, y, columns, x, columns, kTokens, columns, 0.3f, 5, 2, accumulate, kBorders, kDraws,
             kSamples);
      CALL(nt_dropout, dtype, x, columns, x, columns, kTokens, columns, 0.3f, 5, 2, 0, kBorders, kDraws, kSamples);
      free_arrays();
    }
  }
}

struct Product {
  int64_t T, out, in, gap, rank;
};
constexpr Product kProducts[] = {
    {1, 1, 1, 0, 1},     {7, 64, 64, 0, 8},   {33, 66, 130, 1, 4},    {130, 192, 128, 8, 16},
    {5, 129, 65, 3, 3},  {64, 40, 72, 0, 64}, {129, 128, 256, 0, 16}, {0, 64, 64, 0, 16},
    {257, 96, 64, 0, 32},
};

void linear() {
  for (int32_t dtype : kDtypes) {
    for (const Product &p : kProducts) {
      void *data = numbers(dtype, p.out * p.in);
      nt_weight *weight = nullptr;
      CALL(nt_weight_create, dtype, p.out, p.in, data, p.in, &weight);
      const Matrix x = matrix(dtype, p.T, p.in, p.gap), dy = matrix(dtype, p.T, p.out, p.gap);
      const Matrix dx = matrix(dtype, p.T, p.in, p.gap), u = matrix(dtype, p.T, 2 * p.rank, p.gap);
      const Matrix wide = matrix(NT_F32, p.T, p.out, p.gap);
      float *bias = floats(p.out);
      // Two projections on top of each other, each with its own B, where there is room for two.
      const int64_t first = p.out / 3;
      nt_lora_block blocks[2] = {{numbers(dtype, first * p.rank), 0, first, 0},
                                 {numbers(dtype, (p.out - first) * p.rank), first, p.out - first, p.rank}};
      const int64_t from = first == 0 ? 1 : 0;
      CALL(nt_linear_forward, dtype, dy.data, dtype, dy.ld, x.data, x.ld, weight, bias, u.data, u.ld, blocks + from,
           2 - from, p.rank, p.T, NT_ROWS_TOGETHER);
      CALL(nt_linear_forward, dtype, wide.data, NT_F32, wide.ld, x.data, x.ld, weight, nullptr, nullptr, 0, nullptr, 0,
           0, p.T, NT_ROWS_TILED);
      void *a = numbers(dtype, p.rank * p.in);
      for (int32_t accumulate : {0, 1}) {
        CALL(nt_linear_backward_input, dtype, dx.data, dx.ld, dy.data, dy.ld, weight, u.data, u.ld, a, p.rank,
             accumulate, p.T);
        CALL(nt_linear_backward_input, dtype, dx.data, dx.ld, dy.data, dy.ld, weight, nullptr, 0, nullptr, 0,
             accumulate, p.T);
      }
      float *dweight = zeros(p.out * p.in), *dbias = zeros(p.out);
      CALL(nt_linear_backward_weight, dtype, dweight, dbias, dy.data, dy.ld, x.data, x.ld, p.T, p.out, p.in);
      CALL(nt_linear_backward_weight, dtype, dweight, nullptr, dy.data, dy.ld, x.data, x.ld, p.T, p.out, p.in);
      CALL(nt_weight_destroy, weight);
      free_arrays();
    }
  }
}

void lora() {
  for (int32_t dtype : kDtypes) {
    for (const Product &p : kProducts) {
      const Matrix x = matrix(dtype, p.T, p.in, p.gap), dy = matrix(dtype, p.T, p.out, p.gap);
      for (int64_t R : {p.rank, 3 * p.rank}) {
        void *a = numbers(dtype, R * p.in), *u = numbers(dtype, p.T * R);
        const Matrix second = matrix(dtype, p.T, R, p.gap);
        CALL(nt_lora_forward, dtype, u, nullptr, 0, x.data, x.ld, a, 2.0f, p.T, R, p.in, NT_ROWS_TILED);
        CALL(nt_lora_forward, dtype, u, second.data, second.ld, x.data, x.ld, a, 2.0f, p.T, R, p.in,
             NT_ROWS_TOGETHER);
        CALL(nt_lora_backward_a, dtype, zeros(R * p.in), u, R, x.data, x.ld, p.T, R, p.in);
      }
      const Matrix g = matrix(dtype, p.T, 2 * p.rank, p.gap), u = matrix(dtype, p.T, 2 * p.rank, p.gap);
      // Two projections side by side, the second's B frozen, where there is room for two.
      const int64_t first = p.out / 3, from = first == 0 ? 1 : 0;
      const nt_lora_target targets[2] = {
          {numbers(dtype, first * p.rank), zeros(first * p.rank), 0, first, 0},
          {numbers(dtype, (p.out - first) * p.rank), nullptr, first, p.out - first, p.rank}};
      CALL(nt_lora_backward, dtype, g.data, g.ld, dy.data, dy.ld, u.data, u.ld, targets + from, 2 - from, p.rank, 0.5f,
           p.T);
      const nt_lora_target whole = {numbers(dtype, p.out * p.rank), zeros(p.out * p.rank), 0, p.out, 0};
      CALL(nt_lora_backward, dtype, g.data, g.ld, dy.data, dy.ld, u.data, u.ld, &whole, 1, p.rank, 0.5f, p.T);
      free_arrays();
    }
  }
}

void cross_entropy() {
  for (int32_t dtype : kDtypes) {
    for (int64_t V : {3, 130, 5001}) {
      constexpr int64_t H = 72, T = 9, n = 4;
      const int32_t rows[n] = {0, 3, 4, 8}, targets[n] = {0, 2, 1, 2};
      nt_weight *weight = nullptr;
      CALL(nt_weight_create, dtype, V, H, numbers(dtype, V * H), H, &weight);
      void *x = numbers(dtype, T * H), *dx = numbers(dtype, T * H);
      float *losses = zeros(n), *dweight = zeros(V * H);
      int64_t wanted = 0;
      CALL(nt_linear_cross_entropy_workspace, dtype, n, H, V, 1, &wanted);
      void *workspace = bytes(wanted);
      CALL(nt_linear_cross_entropy, dtype, losses, dx, dweight, x, weight, rows, targets, n, T, 0.25f, workspace,
           wanted);
      CALL(nt_linear_cross_entropy, dtype, losses, nullptr, nullptr, x, weight, rows, targets, n, T, 0.25f, workspace,
           wanted);
      CALL(nt_weight_destroy, weight);
      free_arrays();
    }
  }
}

struct Heads {
  int64_t heads, kv_heads, head_dim, gap, window;
};
constexpr Heads kHeads[] = {{4, 2, 64, 0, 0},  {2, 2, 96, 8, 0}, {4, 1, 128, 0, 0}, {3, 3, 20, 1, 0}, {2, 1, 64, 1, 0},
                            {2, 1, 64, 0, 70}, {1, 1, 96, 8, 1}, {2, 1, 128, 0, 5}, {2, 1, 20, 1, 40},
                            {2, 1, 100, 4, 0}, {2, 1, 256, 0, 9}};

void attention() {
  static const int32_t borders[] = {0, 1, 71, 199};
  constexpr int64_t T = 199, sequences = 3;
  for (int32_t dtype : kDtypes) {
    for (const Heads &h : kHeads) {
      const int64_t q_columns = h.heads * h.head_dim, kv_columns = h.kv_heads * h.head_dim, step = size_of(dtype);
      const Matrix qkv = matrix(dtype, T, q_columns + 2 * kv_columns, h.gap);
      const Matrix d = matrix(dtype, T, q_columns + 2 * kv_columns, h.gap);
      const Matrix o = matrix(dtype, T, q_columns, h.gap), dout = matrix(dtype, T, q_columns, h.gap);
      auto part = [&](const Matrix &m, int64_t column) { return static_cast<char *>(m.data) + column * step; };
      const int64_t k = q_columns, v = q_columns + kv_columns;
      float *lse = zeros(h.heads * T), *delta = zeros(h.heads * T);
      const float scale = 1.0f / sqrtf(float(h.head_dim));
      CALL(nt_attention_forward, dtype, o.data, o.ld, nullptr, qkv.data, part(qkv, k), part(qkv, v), qkv.ld, borders,
           sequences, h.heads, h.kv_heads, h.head_dim, h.window, scale);
      CALL(nt_attention_forward, dtype, o.data, o.ld, lse, qkv.data, part(qkv, k), part(qkv, v), qkv.ld, borders,
           sequences, h.heads, h.kv_heads, h.head_dim, h.window, scale);
      CALL(nt_attention_backward, dtype, d.data, part(d, k), part(d, v), d.ld, delta, dout.data, o.data, o.ld, qkv.data,
           part(qkv, k), part(qkv, v), qkv.ld, lse, borders, sequences, h.heads, h.kv_heads, h.head_dim, h.window,
           scale, nullptr, nullptr, nullptr);
      if (h.head_dim % 2 == 0) {
        const int64_t half = h.head_dim / 2;
        CALL(nt_attention_backward, dtype, d.data, part(d, k), part(d, v), d.ld, delta, dout.data, o.data, o.ld,
             qkv.data, part(qkv, k), part(qkv, v), qkv.ld, lse, borders, sequences, h.heads, h.kv_heads, h.head_dim,
             h.window, scale, floats(5 * half), floats(5 * half), ids(T, 5));
      }
      free_arrays();
    }
  }
}

void decode() {
  static const int32_t borders[] = {0, 1, 8, 10}, slots[] = {2, 0, 3}, starts[] = {0, 5, 60}, lengths[] = {1, 12, 62};
  constexpr int64_t sequences = 3, capacity = 64, all_slots = 4;
  for (int32_t dtype : kDtypes) {
    for (const Heads &h : kHeads) {
      const int64_t q_columns = h.heads * h.head_dim, kv_columns = h.kv_heads * h.head_dim;
      void *k_cache = numbers(dtype, all_slots * capacity * kv_columns);
      void *v_cache = numbers(dtype, all_slots * capacity * kv_columns);
      const Matrix k = matrix(dtype, 10, kv_columns, h.gap), v = matrix(dtype, 10, kv_columns, h.gap);
      CALL(nt_kv_append, dtype, k_cache, v_cache, k.data, v.data, k.ld, borders, slots, starts, sequences, capacity,
           h.kv_heads, h.head_dim);
      const Matrix q = matrix(dtype, sequences, q_columns, h.gap), o = matrix(dtype, sequences, q_columns, h.gap);
      CALL(nt_attention_decode, dtype, o.data, o.ld, q.data, q.ld, k_cache, v_cache, slots, lengths, sequences,
           capacity, h.heads, h.kv_heads, h.head_dim, h.window, 0.125f);
      const Matrix several = matrix(dtype, 10, q_columns, h.gap), out = matrix(dtype, 10, q_columns, h.gap);
      CALL(nt_attention_cached, dtype, out.data, out.ld, several.data, several.ld, k_cache, v_cache, borders, slots,
           lengths, sequences, capacity, h.heads, h.kv_heads, h.head_dim, h.window, 0.125f);
      free_arrays();
    }
  }
}

void optimizer() {
  for (int64_t n : {0, 1, 1027, 4096, 70001}) {
    float *gradients = floats(n), *parameters = floats(n), *m = zeros(n), *v = zeros(n), *norm = zeros(2);
    void *copy = bytes(2 * n);
    CALL(nt_gradient_norm, norm, gradients, n, 1.0f);
    CALL(nt_adamw, parameters, copy, gradients, m, v, n, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 1, norm + 1);
    CALL(nt_adamw, parameters, nullptr, gradients, m, v, n, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 2, nullptr);
    auto *m_codes = static_cast<uint8_t *>(bytes(n)), *v_codes = static_cast<uint8_t *>(bytes(n));
    float *m_absmax = zeros((n + 255) / 256), *v_absmax = zeros((n + 255) / 256);
    CALL(nt_adamw_8bit, parameters, copy, gradients, m_codes, v_codes, m_absmax, v_absmax, n, 1e-3f, 0.9f, 0.999f,
         1e-8f, 0.1f, 1, norm + 1);
    free_arrays();
  }
}

void generation() {
  for (int32_t dtype : kDtypes) {
    for (int64_t columns : {1, 8, 131}) {
      const int32_t rows[] = {4, 0, 4};
      CALL(nt_gather_rows, dtype, bytes(3 * columns * size_of(dtype)), numbers(dtype, 5 * columns), rows, 3, columns);
      free_arrays();
    }
  }
  const int32_t history[] = {1, 2, 2, 0};
  const int64_t offsets[] = {0, 3, 3, 4};
  for (int64_t V : {3, 1000, 9001}) {
    constexpr int64_t B = 3;
    auto *tokens = static_cast<int32_t *>(bytes(4 * B));
    const nt_sampling settings[] = {{0, 1, 0, 1, 0, 5, 9, 3},          {1, 1, 0, 1.2f, 0, 5, 0, 3},
                                    {0.7f, 1, 0, 1, 2, 5, 1, 3},       {0.7f, 0.8f, 0, 1, 0, 5, 9, 3},
                                    {0.7f, 0.9f, 0.1f, 1.1f, 50, 5, 0, 3}, {0, 1, 0, 1, 0, 5, 1, 3},
                                    {0.7f, 1, 0.2f, 1, 0, 5, 9, 3}};
    for (int first : {0, 3, 4}) CALL(nt_sample, tokens, floats(B * V, 4.0f), B, V, settings + first, history, offsets);
    free_arrays();
  }
}

void nf4() {
  for (int32_t dtype : kDtypes) {
    constexpr int64_t out = 66, in = 129, n = out * in, blocks = (n + 63) / 64, groups = (blocks + 255) / 256;
    auto *codes = static_cast<uint8_t *>(bytes((n + 1) / 2)), *absmax_codes = static_cast<uint8_t *>(bytes(blocks));
    float *absmax = zeros(blocks), *absmax2 = zeros(groups + 1);
    auto *odd = static_cast<uint32_t *>(static_cast<void *>(zeros(1)));
    CALL(nt_nf4_quantize, codes, absmax, numbers(dtype, n), dtype, n, odd);
    for (int64_t offset : {0, 1}) CALL(nt_count_non_finite, odd, numbers(dtype, n, 1.0f, offset), dtype, n);
    CALL(nt_nf4_quantize_absmax, absmax_codes, absmax2, absmax, blocks);
    const nt_nf4 once = {codes, absmax, nullptr, dtype}, twice = {codes, absmax_codes, absmax2, dtype};
    for (const nt_nf4 *tensor : {&once, &twice}) {
      void *scratch = numbers(dtype, n);
      CALL(nt_nf4_dequantize, scratch, dtype, tensor, n, in, in);
      nt_weight *weight = nullptr;
      CALL(nt_weight_create_nf4, dtype, out, in, tensor, scratch, &weight);
      if (weight == nullptr) continue;
      for (int64_t T : {1, 37}) {
        void *x = numbers(dtype, T * in), *y = numbers(dtype, T * out);
        CALL(nt_linear_forward, dtype, y, dtype, out, x, in, weight, nullptr, nullptr, 0, nullptr, 0, 0, T, NT_ROWS_EACH);
        CALL(nt_linear_backward_input, dtype, x, in, y, out, weight, nullptr, 0, nullptr, 0, 0, T);
      }
      const nt_weight *const parts[] = {weight, weight};
      nt_weight *stack = nullptr;
      CALL(nt_weight_create_stack, parts, 2, &stack);
      if (stack != nullptr) {
        constexpr int64_t T = 37, rank = 4, rows = 11;
        void *x = numbers(dtype, T * in), *y = numbers(dtype, T * 2 * out), *u = numbers(dtype, T * rank);
        const nt_lora_block across = {numbers(dtype, rows * rank), out - 5, rows, 0};
        CALL(nt_linear_forward, dtype, y, dtype, 2 * out, x, in, stack, nullptr, u, rank, &across, 1, rank, T,
             NT_ROWS_TOGETHER);
        CALL(nt_linear_backward_input, dtype, x, in, y, 2 * out, stack, u, rank, numbers(dtype, rank * in), rank, 0, T);
      }
      CALL(nt_weight_destroy, stack);
      CALL(nt_weight_destroy, weight);
    }
    free_arrays();
  }
}

// One rank alone, whose collectives overlap its other work or not.
void collectives() {
  char text[1024];
  check(nt_comm_probe(text, sizeof text), "nt_comm_probe");
  uint8_t id[128];
  const int32_t stop = 0;
  for (int32_t overlapping : {0, 1}) {
    nt_comm *comm = nullptr;
    CALL(nt_comm_id, id);
    CALL(nt_comm_create, 0, 1, id, &stop, &comm);
    CALL(nt_comm_describe, comm, text, sizeof text);
    for (int32_t dtype : kDtypes) {
      for (int64_t n : {0, 1, 257}) {
        void *x = numbers(dtype, n), *y = numbers(dtype, n);
        CALL(nt_comm_overlap, comm, overlapping);
        CALL(nt_comm_all_reduce, comm, dtype, x, n);
        CALL(nt_comm_reduce_scatter, comm, dtype, y, x, n);
        CALL(nt_comm_all_gather, comm, dtype, x, y, n);
        CALL(nt_comm_overlap, comm, 0);
        CALL(nt_comm_broadcast, comm, dtype, x, n, 0);
      }
    }
    CALL(nt_comm_barrier, comm);
    CALL(nt_comm_wait, comm);
    if (overlapping == 1) CALL(nt_comm_abort, comm);
    CALL(nt_comm_destroy, comm);
    free_arrays();
  }
}

struct Group {
  const char *name;
  void (*run)();
};
constexpr Group kGroups[] = {
    {"memory", memory},
    {"embedding", embedding},
    {"rmsnorm", rmsnorm},
    {"rope", rope},
    {"rmsnorm_rope", rmsnorm_rope},
    {"swiglu", swiglu_and_dropout},
    {"linear", linear},
    {"lora", lora},
    {"cross_entropy", cross_entropy},
    {"attention", attention},
    {"decode", decode},
    {"optimizer", optimizer},
    {"generation", generation},
    {"nf4", nf4},
    {"collectives", collectives},
};

}  // namespace

// driver: all groups. driver GROUP…: these.
int main(int count, char **arguments) {
  check(nt_create(0, 0, &context), "nt_create");
  for (const Group &group : kGroups) {
    bool wanted = count == 1;
    for (int i = 1; i < count; i++) wanted = wanted || strcmp(arguments[i], group.name) == 0;
    if (!wanted) continue;
    group.run();
    free_arrays();
  }
  check(nt_destroy(context), "nt_destroy");
  printf("nt_last_error\n");
  return 0;
}
