#include "matmul.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "word_matmul.h"
#include "word_tiles.h"

namespace nt {

namespace {

// Packed batches give many different T, and each needs its own primitives. One keeps 50-150 KB of generated code.
constexpr int kCapacity = 256;
// The M for which oneDNN chooses a weight's layout; the layout then serves every M.
constexpr int64_t kTypicalRows = 1024;

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
  state->native_bf16 = kPairs<bf16> && (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
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

}  // namespace

int32_t matmul(nt_context *context, const Product &product) {
  if (words_multiply(context, product.a.dtype, product.m)) return word_matmul(context, product, {});
  return matmul_tiles(context, product, product.m);
}

int32_t matmul_tiles(nt_context *context, const Product &product, int64_t tile) {
  if (product.m <= 0 || product.n <= 0 || product.k <= 0) return NT_OK;
  MatmulState *state = state_of(context);
  if (state == nullptr) return fail(NT_DEVICE, "matmul: oneDNN cannot be started");
  return by_tiles(product, tile, [&](const Product &part) { return run(state, part); });
}

bool words_multiply(nt_context *context, int32_t dtype, int64_t rows) {
  const MatmulState *state = state_of(context);
  if (state == nullptr || (dtype == NT_BF16 && state->amx)) return false;
  return rows >= kWordLeastRows || (dtype == NT_BF16 && !state->native_bf16);
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
