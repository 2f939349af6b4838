#include "matmul.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "rounding.h"
#include "vec.h"

namespace nt {

namespace {

// Packed batches give many different T, and each needs its own primitives. One keeps 50-150 KB of generated code.
constexpr int kCapacity = 256;
// The M for which oneDNN chooses a weight's layout; the layout then serves every M.
constexpr int64_t kTypicalRows = 1024;
// Pieces in which bf16 operands are converted where oneDNN cannot multiply them.
constexpr int64_t kConvertedRows = 2048, kConvertedElements = 1 << 20;

// All that a primitive depends on, as plain numbers so that keys compare by their bytes.
struct Key {
  int64_t m, n, k, a_row, a_column, b_row, b_column, ldc;
  int32_t a_dtype, b_dtype, c_dtype, b_blocked, bias, accumulate;
};

struct Entry {
  Key key;
  uint64_t last_use;
  dnnl_primitive_t primitive;
  dnnl_memory_t a, b, c, bias, scratchpad;
  int64_t scratchpad_bytes;
  bool slow;  // oneDNN has nothing but its reference loop, hundreds of times slower; then there is no primitive
};

// oneDNN's layout for a [k,n] right operand.
struct Layout {
  Layout *next;
  int32_t dtype;
  int64_t k, n, bytes;
  dnnl_memory_desc_t description;  // null: none that pays
};

}  // namespace

struct MatmulState {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  bool avx512, native_bf16, amx;
  Layout *layouts;
  void *scratchpad, *scratch;
  int64_t scratchpad_bytes, scratch_bytes;
  uint64_t clock;
  int used;
  uint64_t hashes[kCapacity];
  Entry entries[kCapacity];
};

namespace {

#define DNNL_TRY(call)                                                  \
  do {                                                                  \
    dnnl_status_t status_ = (call);                                     \
    if (status_ != dnnl_success) return report(status_, #call);         \
  } while (0)

int32_t report(dnnl_status_t status, const char *call) {
  if (status == dnnl_out_of_memory) return fail(NT_OUT_OF_MEMORY, "matmul: oneDNN is out of memory");
  return fail(status == dnnl_unimplemented ? NT_UNSUPPORTED : NT_DEVICE, "matmul: oneDNN status %d from %.80s",
              int(status), call);
}

MatmulState *state_of(nt_context *context) {
  if (context->matmul != nullptr) return context->matmul;
  auto *state = static_cast<MatmulState *>(calloc(1, sizeof(MatmulState)));
  if (state == nullptr) return nullptr;
  // The cache here bounds memory; oneDNN's own would keep what this one gave up.
  dnnl_set_primitive_cache_capacity(0);
  if (dnnl_engine_create(&state->engine, dnnl_cpu, 0) != dnnl_success ||
      dnnl_stream_create(&state->stream, state->engine, dnnl_stream_default_flags) != dnnl_success) {
    free(state);
    return nullptr;
  }
  int isa = int(dnnl_get_effective_cpu_isa());
  state->avx512 = (isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
  state->native_bf16 = (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
  state->amx = (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
  return context->matmul = state;
}

dnnl_data_type_t data_type(int32_t dtype) { return dtype == NT_F32 ? dnnl_f32 : dnnl_bf16; }

bool grow(void **buffer, int64_t *have, int64_t bytes) {
  if (bytes <= *have) return true;
  release(*buffer);
  *have = 0;
  int64_t wanted = bytes + bytes / 4;
  *buffer = allocate(wanted);
  if (*buffer == nullptr) return false;
  *have = wanted;
  return true;
}

uint64_t hash_of(const Key &key) {
  const auto *bytes = reinterpret_cast<const unsigned char *>(&key);
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (size_t i = 0; i < sizeof key; i += 8) {
    uint64_t word;
    memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * 0x100000001B3u;
  }
  return hash;
}

dnnl_status_t describe(dnnl_memory_desc_t *description, int64_t rows, int64_t columns, int32_t dtype, int64_t row,
                       int64_t column) {
  dnnl_dims_t sizes = {rows, columns}, strides = {row, column};
  return dnnl_memory_desc_create_with_strides(description, 2, sizes, data_type(dtype), strides);
}

void destroy(Entry &entry) {
  dnnl_memory_t memories[] = {entry.a, entry.b, entry.c, entry.bias, entry.scratchpad};
  for (dnnl_memory_t memory : memories)
    if (memory != nullptr) dnnl_memory_destroy(memory);
  if (entry.primitive != nullptr) dnnl_primitive_destroy(entry.primitive);
  entry = Entry{};
}

// Descriptions and attributes of one creation, destroyed on every way out.
struct Creation {
  dnnl_memory_desc_t a = nullptr, b = nullptr, c = nullptr, bias = nullptr;
  dnnl_primitive_attr_t attributes = nullptr;
  dnnl_post_ops_t post_ops = nullptr;
  dnnl_primitive_desc_t primitive = nullptr;
  ~Creation() {
    dnnl_memory_desc_t descriptions[] = {a, b, c, bias};
    for (dnnl_memory_desc_t description : descriptions)
      if (description != nullptr) dnnl_memory_desc_destroy(description);
    if (attributes != nullptr) dnnl_primitive_attr_destroy(attributes);
    if (post_ops != nullptr) dnnl_post_ops_destroy(post_ops);
    if (primitive != nullptr) dnnl_primitive_desc_destroy(primitive);
  }
};

int32_t find_layout(MatmulState *state, int32_t dtype, int64_t k, int64_t n, const Layout **found) {
  for (const Layout *layout = state->layouts; layout != nullptr; layout = layout->next)
    if (layout->dtype == dtype && layout->k == k && layout->n == n) {
      *found = layout;
      return NT_OK;
    }
  auto *layout = static_cast<Layout *>(calloc(1, sizeof(Layout)));
  if (layout == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  *layout = {state->layouts, dtype, k, n, 0, nullptr};
  state->layouts = layout;
  *found = layout;
  if (dtype == NT_BF16 && !state->native_bf16) return NT_OK;
  Creation made;
  dnnl_dims_t sizes = {k, n};
  DNNL_TRY(describe(&made.a, kTypicalRows, k, dtype, k, 1));
  DNNL_TRY(dnnl_memory_desc_create_with_tag(&made.b, 2, sizes, data_type(dtype), dnnl_format_tag_any));
  DNNL_TRY(describe(&made.c, kTypicalRows, n, dtype, n, 1));
  DNNL_TRY(
      dnnl_matmul_primitive_desc_create(&made.primitive, state->engine, made.a, made.b, nullptr, made.c, nullptr));
  const_dnnl_memory_desc_t chosen = dnnl_primitive_desc_query_md(made.primitive, dnnl_query_weights_md, 0);
  dnnl_format_kind_t kind = dnnl_format_kind_undef;
  int blocks = 0;
  DNNL_TRY(dnnl_memory_desc_query(chosen, dnnl_query_format_kind, &kind));
  if (kind == dnnl_blocked) DNNL_TRY(dnnl_memory_desc_query(chosen, dnnl_query_inner_nblks_s32, &blocks));
  if (blocks == 0) return NT_OK;  // a plain layout: nothing to prepare
  DNNL_TRY(dnnl_memory_desc_clone(&layout->description, chosen));
  layout->bytes = int64_t(dnnl_memory_desc_get_size(chosen));
  return NT_OK;
}

int32_t create(MatmulState *state, const Key &key, Entry *entry) {
  Creation made;
  DNNL_TRY(describe(&made.a, key.m, key.k, key.a_dtype, key.a_row, key.a_column));
  if (key.b_blocked) {
    const Layout *layout;
    int32_t status = find_layout(state, key.b_dtype, key.k, key.n, &layout);
    if (status != NT_OK) return status;
    DNNL_TRY(dnnl_memory_desc_clone(&made.b, layout->description));
  } else {
    DNNL_TRY(describe(&made.b, key.k, key.n, key.b_dtype, key.b_row, key.b_column));
  }
  DNNL_TRY(describe(&made.c, key.m, key.n, key.c_dtype, key.ldc, 1));
  if (key.bias) DNNL_TRY(describe(&made.bias, 1, key.n, NT_F32, key.n, 1));
  DNNL_TRY(dnnl_primitive_attr_create(&made.attributes));
  DNNL_TRY(dnnl_primitive_attr_set_scratchpad_mode(made.attributes, dnnl_scratchpad_mode_user));
  if (key.accumulate) {
    DNNL_TRY(dnnl_post_ops_create(&made.post_ops));
    DNNL_TRY(dnnl_post_ops_append_sum(made.post_ops, 1.0f, 0, dnnl_data_type_undef));
    DNNL_TRY(dnnl_primitive_attr_set_post_ops(made.attributes, made.post_ops));
  }
  DNNL_TRY(dnnl_matmul_primitive_desc_create(&made.primitive, state->engine, made.a, made.b, made.bias, made.c,
                                             made.attributes));
  const char *implementation = nullptr;
  DNNL_TRY(dnnl_primitive_desc_query(made.primitive, dnnl_query_impl_info_str, 0, &implementation));
  entry->slow = key.b_blocked && strncmp(implementation, "ref", 3) == 0;
  if (entry->slow) return NT_OK;
  DNNL_TRY(dnnl_primitive_create(&entry->primitive, made.primitive));
  DNNL_TRY(dnnl_memory_create(&entry->a, made.a, state->engine, DNNL_MEMORY_NONE));
  DNNL_TRY(dnnl_memory_create(&entry->b, made.b, state->engine, DNNL_MEMORY_NONE));
  DNNL_TRY(dnnl_memory_create(&entry->c, made.c, state->engine, DNNL_MEMORY_NONE));
  if (key.bias) DNNL_TRY(dnnl_memory_create(&entry->bias, made.bias, state->engine, DNNL_MEMORY_NONE));
  const_dnnl_memory_desc_t scratchpad = dnnl_primitive_desc_query_md(made.primitive, dnnl_query_scratchpad_md, 0);
  entry->scratchpad_bytes = scratchpad == nullptr ? 0 : int64_t(dnnl_memory_desc_get_size(scratchpad));
  if (entry->scratchpad_bytes > 0)
    DNNL_TRY(dnnl_memory_create(&entry->scratchpad, scratchpad, state->engine, DNNL_MEMORY_NONE));
  return NT_OK;
}

int32_t find_entry(MatmulState *state, const Key &key, Entry **found) {
  uint64_t hash = hash_of(key);
  int oldest = 0;
  for (int i = 0; i < state->used; i++) {
    if (state->hashes[i] == hash && memcmp(&state->entries[i].key, &key, sizeof key) == 0) {
      *found = &state->entries[i];
      return NT_OK;
    }
    if (state->entries[i].last_use < state->entries[oldest].last_use) oldest = i;
  }
  Entry entry = {};
  int32_t status = create(state, key, &entry);
  if (status != NT_OK) {
    destroy(entry);
    return status;
  }
  entry.key = key;
  int slot = state->used < kCapacity ? state->used++ : oldest;
  destroy(state->entries[slot]);
  state->entries[slot] = entry;
  state->hashes[slot] = hash;
  *found = &state->entries[slot];
  return NT_OK;
}

Key key_of(const Product &p) {
  Key key;
  memset(&key, 0, sizeof key);
  key.m = p.m, key.n = p.n, key.k = p.k;
  key.a_row = p.a.row, key.a_column = p.a.column;
  const bool blocked = p.b_blocked != nullptr;
  if (!blocked) key.b_row = p.b.row, key.b_column = p.b.column;
  key.ldc = p.ldc;
  key.a_dtype = p.a.dtype, key.b_dtype = p.b.dtype, key.c_dtype = p.c_dtype;
  key.b_blocked = blocked, key.bias = p.bias != nullptr, key.accumulate = p.accumulate;
  return key;
}

int32_t run(MatmulState *state, const Product &p) {
  const bool blocked = p.b_blocked != nullptr;
  Entry *entry = nullptr;
  int32_t status = find_entry(state, key_of(p), &entry);
  if (status != NT_OK) return status;
  entry->last_use = ++state->clock;
  if (entry->slow) {
    Product plain = p;
    plain.b_blocked = nullptr;
    return run(state, plain);
  }
  if (!grow(&state->scratchpad, &state->scratchpad_bytes, entry->scratchpad_bytes))
    return fail(NT_OUT_OF_MEMORY, "matmul: no memory for %lld bytes of scratch", (long long)entry->scratchpad_bytes);
  dnnl_exec_arg_t arguments[5];
  int count = 0;
  auto bind = [&](int name, dnnl_memory_t memory, const void *data) {
    dnnl_status_t bound = dnnl_memory_set_data_handle(memory, const_cast<void *>(data));
    arguments[count++] = {name, memory};
    return bound;
  };
  DNNL_TRY(bind(DNNL_ARG_SRC, entry->a, p.a.data));
  DNNL_TRY(bind(DNNL_ARG_WEIGHTS, entry->b, blocked ? p.b_blocked : p.b.data));
  DNNL_TRY(bind(DNNL_ARG_DST, entry->c, p.c));
  if (p.bias != nullptr) DNNL_TRY(bind(DNNL_ARG_BIAS, entry->bias, p.bias));
  if (entry->scratchpad_bytes > 0) DNNL_TRY(bind(DNNL_ARG_SCRATCHPAD, entry->scratchpad, state->scratchpad));
  DNNL_TRY(dnnl_primitive_execute(entry->primitive, state->stream, count, arguments));
  return NT_OK;
}

// destination[rows, columns] (f32, dense) = source, rows ld apart.
void to_f32(int threads, float *destination, const void *source, int64_t rows, int64_t columns, int64_t ld) {
  const bf16 *from = static_cast<const bf16 *>(source);
  parallel_for(threads, rows, 1 + (1 << 15) / columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const bf16 *x = from + i * ld;
      float *y = destination + i * columns;
      int64_t j = 0;
      for (; j + kLanes <= columns; j += kLanes) store(y + j, load(x + j));
      if (j < columns) store_part(y + j, load_part(x + j, columns - j), columns - j);
    }
  });
}

// c[rows, columns] (bf16, rows ldc apart) = or += source (f32, dense).
void to_bf16(int threads, void *c, int64_t ldc, const float *source, int64_t rows, int64_t columns, bool accumulate) {
  bf16 *to = static_cast<bf16 *>(c);
  parallel_for(threads, rows, 1 + (1 << 15) / columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float *x = source + i * columns;
      bf16 *y = to + i * ldc;
      int64_t j = 0;
      for (; j + kLanes <= columns; j += kLanes) store(y + j, accumulate ? load(x + j) + load(y + j) : load(x + j));
      for (; j < columns; j++) set(y[j], accumulate ? x[j] + to_float(y[j]) : x[j]);
    }
  });
}

// Converts a stored piece to dense f32 at *next and moves *next behind it.
Matrix converted(int threads, const Matrix &matrix, int64_t rows, int64_t columns, float **next) {
  if (matrix.dtype == NT_F32) return matrix;
  bool stored = matrix.column == 1;
  int64_t outer = stored ? rows : columns, inner = stored ? columns : rows;
  float *at = *next;
  to_f32(threads, at, matrix.data, outer, inner, stored ? matrix.row : matrix.column);
  *next = at + round_up(rows * columns, 64);
  return {at, NT_F32, stored ? inner : 1, stored ? 1 : inner};
}

// The same product in f32, for machines without bf16 instructions: pieces of a and panels of b are converted first.
int32_t run_converted(nt_context *context, MatmulState *state, const Product &p, int64_t tile) {
  int64_t rows = p.m < kConvertedRows ? p.m : kConvertedRows;
  if (tile < p.m) rows = round_up(rows, tile);
  int64_t width = round_up(kConvertedElements / p.k + 1, 64);
  if (width > p.n) width = p.n;
  int64_t floats = round_up(rows * p.k, 64) + round_up(width * p.k, 64) + rows * width;
  auto *buffer = static_cast<float *>(scratch(context, floats * 4));
  if (buffer == nullptr)
    return fail(NT_OUT_OF_MEMORY, "matmul: no memory for %lld bytes of converted operands", (long long)floats * 4);
  bool direct = p.c_dtype == NT_F32;
  for (int64_t i = 0; i < p.m; i += rows) {
    Product part = p;
    part.m = p.m - i < rows ? p.m - i : rows;
    float *after_a = buffer;
    part.a.data = element(p.a, i, 0);
    part.a = converted(context->threads, part.a, part.m, p.k, &after_a);
    for (int64_t j = 0; j < p.n; j += width) {
      part.n = p.n - j < width ? p.n - j : width;
      float *next = after_a;
      part.b = p.b;
      part.b.data = element(p.b, 0, j);
      part.b = converted(context->threads, part.b, p.k, part.n, &next);
      part.bias = p.bias == nullptr ? nullptr : p.bias + j;
      void *c = static_cast<char *>(p.c) + (i * p.ldc + j) * size_of(p.c_dtype);
      part.c = direct ? c : next;
      part.c_dtype = NT_F32;
      part.ldc = direct ? p.ldc : part.n;
      part.accumulate = direct && p.accumulate;
      int32_t status = by_tiles(part, tile, [&](const Product &tile_of) { return run(state, tile_of); });
      if (status != NT_OK) return status;
      if (!direct) to_bf16(context->threads, c, p.ldc, next, part.m, part.n, p.accumulate);
    }
  }
  return NT_OK;
}

}  // namespace

int32_t matmul(nt_context *context, const Product &product) { return matmul_tiles(context, product, product.m); }

int32_t matmul_tiles(nt_context *context, const Product &product, int64_t tile) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return NT_OK;
  MatmulState *state = state_of(context);
  if (state == nullptr) return fail(NT_DEVICE, "matmul: oneDNN cannot be started");
  bool bf16_operands = product.a.dtype == NT_BF16 || product.b.dtype == NT_BF16;
  if (bf16_operands && !state->native_bf16) return run_converted(context, state, product, tile);
  return by_tiles(product, tile, [&](const Product &part) { return run(state, part); });
}

int64_t tile_rows(nt_context *context, int32_t dtype) {
  const MatmulState *state = state_of(context);
  // Without AVX-512 a product takes six rows at a time, and sums those left over in another order.
  if (state == nullptr || !state->avx512) return 48;
  if (dtype == NT_F32 || !state->native_bf16) return 64;
  return state->amx ? 128 : 32;
}

bool has_amx(nt_context *context) {
  const MatmulState *state = state_of(context);
  return state != nullptr && state->amx;
}

int32_t takes_panels(nt_context *context, const Product &p, bool *takes) {
  *takes = false;
  if (p.m <= 0 || p.n <= 0 || p.k <= 0) return NT_OK;
  MatmulState *state = state_of(context);
  if (state == nullptr) return fail(NT_DEVICE, "matmul: oneDNN cannot be started");
  const Layout *layout = nullptr;
  int32_t status = find_layout(state, p.b.dtype, p.k, p.n, &layout);
  const int64_t pair = p.b.dtype == NT_BF16 ? 2 : 1;
  if (status != NT_OK || layout->bytes != p.k * p.n * size_of(p.b.dtype)) return status;
  int levels = 0;
  const dnnl_dim_t *sizes = nullptr, *dimensions = nullptr, *strides = nullptr;
  DNNL_TRY(dnnl_memory_desc_query(layout->description, dnnl_query_inner_nblks_s32, &levels));
  DNNL_TRY(dnnl_memory_desc_query(layout->description, dnnl_query_inner_blks, &sizes));
  DNNL_TRY(dnnl_memory_desc_query(layout->description, dnnl_query_inner_idxs, &dimensions));
  DNNL_TRY(dnnl_memory_desc_query(layout->description, dnnl_query_strides, &strides));
  // Blocks of 16 k (or 16 pairs) × 64 columns, along k first.
  const bool panels = levels == 1 + pair && sizes[0] == 16 && dimensions[0] == 0 && sizes[1] == kPanel &&
                      dimensions[1] == 1 && (pair == 1 || (sizes[2] == 2 && dimensions[2] == 0)) &&
                      strides[0] == 16 * kPanel * pair && strides[1] == p.k * kPanel;
  if (!panels) return NT_OK;
  Entry *entry = nullptr;
  status = find_entry(state, key_of(p), &entry);
  if (status == NT_OK) *takes = !entry->slow;
  return status;
}

void *scratch(nt_context *context, int64_t bytes) {
  MatmulState *state = state_of(context);
  if (state == nullptr || !grow(&state->scratch, &state->scratch_bytes, bytes)) return nullptr;
  return state->scratch;
}

void matmul_destroy(nt_context *context) {
  MatmulState *state = context->matmul;
  if (state == nullptr) return;
  for (int i = 0; i < state->used; i++) destroy(state->entries[i]);
  while (state->layouts != nullptr) {
    Layout *layout = state->layouts;
    state->layouts = layout->next;
    if (layout->description != nullptr) dnnl_memory_desc_destroy(layout->description);
    free(layout);
  }
  dnnl_stream_destroy(state->stream);
  dnnl_engine_destroy(state->engine);
  release(state->scratchpad);
  release(state->scratch);
  free(state);
  context->matmul = nullptr;
}

}  // namespace nt
