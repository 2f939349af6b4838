// A stand-in for cuBLASLt with the meaning of NVIDIA's, for what ../cuda/cublaslt.h declares: plain blocked products in
// float32 on the CPU. Stricter than the real one: it checks every extent against the device's allocations, holds
// callers to the alignments they declared, and overwrites the workspace at both ends. The order of a product's sums
// may depend on all that its heuristic is told (sizes, types, distances, alignments), as NVIDIA's does. NEFTUNE_EMULATOR_SPLIT_K=sound, varying or short adds an algorithm that splits k:
// one in order, one whose bits vary, one that leaves out what is left of k beyond a multiple of 32.
#include "../cuda/cublaslt.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device_memory.h"
#include "sums.h"
#include "stream.h"

namespace nt::lt {

struct Context {
  uint64_t mark;
};
struct MatrixLayout {
  uint64_t mark;
  DataType type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Descriptor {
  uint64_t mark;
  int32_t transpose_a, transpose_b;
  uint32_t epilogue;
  const void *bias;
};
struct Preference {
  uint64_t mark;
  uint64_t workspace_bytes;
  uint32_t reduction_schemes, alignment[4];  // of a, b, c, d
};

namespace {

constexpr Status kInvalidValue = Status(7), kExecutionFailed = Status(13);
// Objects begin with their own kind's mark, and lose it when they are destroyed.
constexpr uint64_t kContextMark = 0x434F4E54, kLayoutMark = 0x4C41594F, kDescriptorMark = 0x44455343,
                   kPreferenceMark = 0x50524546, kAlgorithmMark = 0x414C474F;
constexpr uint64_t kOrders = 4;
// What the one algorithm asks for, and what of the workspace it overwrites at either end.
constexpr size_t kWorkspace = 64 * 1024;

template <class T>
bool is(const T *object, uint64_t mark) {
  return object != nullptr && object->mark == mark;
}

template <class T>
Status create(T **object, uint64_t mark) {
  *object = static_cast<T *>(calloc(1, sizeof(T)));
  if (*object == nullptr) return Status(3);  // CUBLAS_STATUS_ALLOC_FAILED
  (*object)->mark = mark;
  return kSuccess;
}
template <class T>
Status destroy(T *object, uint64_t mark) {
  if (!is(object, mark)) return kInvalidValue;
  object->mark = 0;
  free(object);
  return kSuccess;
}

Status invalid(const char *what) {
  emulator::fail_host("cuBLASLt: %s", what);
  return kInvalidValue;
}

struct Shape {
  int64_t m, n, k;
};

// Whether the four layouts make a product.
Status check(const Descriptor *descriptor, const MatrixLayout *a, const MatrixLayout *b, const MatrixLayout *c,
             const MatrixLayout *d, Shape *shape) {
  if (!is(descriptor, kDescriptorMark)) return invalid("no descriptor");
  for (const MatrixLayout *layout : {a, b, c, d}) {
    if (!is(layout, kLayoutMark)) return invalid("no layout");
    if (layout->type != kFloat32 && layout->type != kBfloat16) return invalid("a type other than float32 and bfloat16");
    if (layout->rows == 0 || layout->columns == 0) return invalid("an empty matrix");
    if (layout->ld < int64_t(layout->rows)) return invalid("a leading dimension below the number of rows");
  }
  const bool ta = descriptor->transpose_a == kTranspose, tb = descriptor->transpose_b == kTranspose;
  *shape = {int64_t(d->rows), int64_t(d->columns), int64_t(ta ? a->rows : a->columns)};
  if (int64_t(ta ? a->columns : a->rows) != shape->m || int64_t(tb ? b->rows : b->columns) != shape->n ||
      int64_t(tb ? b->columns : b->rows) != shape->k || c->rows != d->rows || c->columns != d->columns)
    return invalid("shapes that do not fit");
  if (a->type != b->type || c->type != d->type || (d->type != a->type && d->type != kFloat32))
    return invalid("types that do not go together");
  return kSuccess;
}

bool holds(const void *data, const MatrixLayout *layout) {
  const size_t elements = size_t(layout->ld) * (layout->columns - 1) + layout->rows;
  return data != nullptr && emulator::memory_holds(data, elements * size_of(layout->type));
}

// The heuristic of a device has no kernel where four bytes cannot be copied at once.
bool supported(const MatrixLayout *layout, uint32_t alignment) {
  return alignment >= 4 && size_t(layout->ld) * size_of(layout->type) % 4 == 0;
}

// Numbers of algorithms: two compute the same; the others split k.
constexpr uint64_t kPlainAlgorithms = 2, kSound = 2, kVarying = 3, kShort = 4;

// Which of those that split k there is; 0: none.
uint64_t offered_split() {
  const char *chosen = getenv("NEFTUNE_EMULATOR_SPLIT_K");
  if (chosen == nullptr) return 0;
  return strcmp(chosen, "sound") == 0 ? kSound : strcmp(chosen, "varying") == 0 ? kVarying : kShort;
}

// A checked product, as it waits in the stream.
struct Product {
  uint64_t algorithm, order;
  Descriptor descriptor;
  MatrixLayout a_layout, b_layout, c_layout, d_layout;
  Shape shape;
  float alpha, beta;
  const void *a, *b, *c;
  void *d;
  char *workspace;
  size_t workspace_bytes;
};

// Element (row, column) of D from its sum.
void store(const Product &product, int64_t row, int64_t column, float sum) {
  const DataType type = product.d_layout.type;
  float value = product.alpha * sum;
  if (product.beta != 0) value += product.beta * load(product.c, type, column * product.c_layout.ld + row);
  if (product.descriptor.epilogue == kEpilogueBias) value += load(product.descriptor.bias, type, row);
  const int64_t at = column * product.d_layout.ld + row;
  if (type == kFloat32) {
    static_cast<float *>(product.d)[at] = value;
  } else {
    static_cast<uint16_t *>(product.d)[at] = float_to_bf16(value);
  }
}

cudaError_t run_product(void *arguments, void *) {
  const Product &p = *static_cast<const Product *>(arguments);
  memset(p.workspace, 0xFF, kWorkspace);
  memset(p.workspace + p.workspace_bytes - kWorkspace, 0xFF, kWorkspace);
  const bool ta = p.descriptor.transpose_a == kTranspose, tb = p.descriptor.transpose_b == kTranspose;
  const int64_t lda = p.a_layout.ld, ldb = p.b_layout.ld, m = p.shape.m, n = p.shape.n, k = p.shape.k;
  static uint64_t runs = 0;
  const uint64_t varying = p.algorithm == kVarying ? ++runs : 0;
  // Sums of k from `from` on come first; what lies beyond `end` is left out.
  const int64_t from = int64_t((p.order + varying) % kOrders) * (k / int64_t(kOrders)), end = p.algorithm == kShort ? k - k % 32 : k;
  if (p.algorithm < kPlainAlgorithms && offered_split() != 0) usleep(20000);  // what splits k is to be the fastest
  float *left = pack(p.a, p.a_layout.type, m, k, ta ? lda : 1, ta ? 1 : lda, kRows);
  float *right = pack(p.b, p.b_layout.type, n, k, tb ? 1 : ldb, tb ? ldb : 1, kColumns);
  for (int64_t i = 0; i < m; i += kRows) {
    for (int64_t j = 0; j < n; j += kColumns) {
      float sums[kColumns][kRows];
      multiply_tile(sums, left + i * k, right + j * k, end, from < end ? from : 0);
      for (int64_t column = j; column < j + kColumns && column < n; column++)
        for (int64_t row = i; row < i + kRows && row < m; row++) store(p, row, column, sums[column - j][row - i]);
    }
  }
  free(left);
  free(right);
  return cudaSuccess;
}

Status Create(Context **context) { return create(context, kContextMark); }
Status Destroy(Context *context) { return destroy(context, kContextMark); }
size_t GetVersion(void) { return 130000; }
const char *GetStatusString(Status status) {
  if (status == kSuccess) return "success";
  if (status == kNotSupported) return "not supported";
  return emulator::last_report();
}

Status MatrixLayoutCreate(MatrixLayout **layout, DataType type, uint64_t rows, uint64_t columns, int64_t ld) {
  const Status status = create(layout, kLayoutMark);
  if (status == kSuccess) **layout = {kLayoutMark, type, rows, columns, ld};
  return status;
}
Status MatrixLayoutDestroy(MatrixLayout *layout) { return destroy(layout, kLayoutMark); }

Status MatmulDescCreate(Descriptor **descriptor, ComputeType compute, DataType scale) {
  if (compute != kCompute32 || scale != kFloat32) return invalid("other than float32 sums and factors");
  const Status status = create(descriptor, kDescriptorMark);
  if (status == kSuccess) (*descriptor)->epilogue = kEpilogueDefault;
  return status;
}
Status MatmulDescDestroy(Descriptor *descriptor) { return destroy(descriptor, kDescriptorMark); }

Status take(void *field, size_t size, const void *value, size_t bytes) {
  if (value == nullptr || bytes != size) return invalid("an attribute of the wrong size");
  memcpy(field, value, size);
  return kSuccess;
}

Status MatmulDescSetAttribute(Descriptor *d, DescriptorAttribute attribute, const void *value, size_t bytes) {
  if (!is(d, kDescriptorMark)) return invalid("no descriptor");
  switch (attribute) {
    case kTransposeA: return take(&d->transpose_a, sizeof d->transpose_a, value, bytes);
    case kTransposeB: return take(&d->transpose_b, sizeof d->transpose_b, value, bytes);
    case kEpilogue: return take(&d->epilogue, sizeof d->epilogue, value, bytes);
    case kBiasPointer: return take(&d->bias, sizeof d->bias, value, bytes);
  }
  return invalid("an attribute that the emulator does not know");
}

Status MatmulPreferenceCreate(Preference **preference) {
  const Status status = create(preference, kPreferenceMark);
  if (status == kSuccess) **preference = {kPreferenceMark, 0, ~0u, {256, 256, 256, 256}};
  return status;
}
Status MatmulPreferenceDestroy(Preference *preference) { return destroy(preference, kPreferenceMark); }

Status MatmulPreferenceSetAttribute(Preference *p, PreferenceAttribute attribute, const void *value, size_t bytes) {
  if (!is(p, kPreferenceMark)) return invalid("no preference");
  switch (attribute) {
    case kMaxWorkspaceBytes: return take(&p->workspace_bytes, sizeof p->workspace_bytes, value, bytes);
    case kReductionSchemeMask: return take(&p->reduction_schemes, sizeof p->reduction_schemes, value, bytes);
    case kMinAlignmentA:
    case kMinAlignmentB:
    case kMinAlignmentC:
    case kMinAlignmentD: return take(&p->alignment[attribute - kMinAlignmentA], sizeof(uint32_t), value, bytes);
  }
  return invalid("an attribute that the emulator does not know");
}

// The order of sums for what a heuristic is told; `alignments`: as algorithms remember them.
uint64_t order_for(const Descriptor &descriptor, const MatrixLayout *const (&layouts)[4], uint64_t alignments) {
  uint64_t hash = alignments;
  const auto mix = [&](uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  };
  for (const int32_t value : {descriptor.transpose_a, descriptor.transpose_b, int32_t(descriptor.epilogue)})
    mix(uint64_t(value));
  for (const MatrixLayout *layout : layouts)
    for (const uint64_t value : {uint64_t(layout->type), layout->rows, layout->columns, uint64_t(layout->ld)}) mix(value);
  return hash % kOrders;
}

// Algorithms remember the alignments of a, b, c, d that they were chosen for, as four bytes of log2, and their order.
Algorithm algorithm_for(uint64_t number, const uint32_t (&alignment)[4], const Descriptor &descriptor,
                        const MatrixLayout *const (&layouts)[4]) {
  uint64_t logarithms = 0;
  for (int i = 0; i < 4; i++) logarithms |= uint64_t(__builtin_ctz(alignment[i])) << (8 * i);
  return {{kAlgorithmMark, uint64_t(number), logarithms, order_for(descriptor, layouts, logarithms)}};
}

// Shapes that the heuristic or a check gave an algorithm for: none other may be made with it.
bool allowed(const Algorithm &algorithm, const Shape &shape, bool allow) {
  struct Entry {
    Entry *next;
    uint64_t number;
    Shape shape;
  };
  static Entry *buckets[1024];
  const uint64_t number = algorithm.data[1];
  Entry **bucket = &buckets[uint64_t(shape.m * 7919 + shape.n * 104729 + shape.k) % 1024];
  for (const Entry *each = *bucket; each != nullptr; each = each->next)
    if (each->number == number && memcmp(&each->shape, &shape, sizeof shape) == 0) return true;
  if (!allow) return false;
  auto *added = static_cast<Entry *>(malloc(sizeof(Entry)));
  if (added == nullptr) abort();
  *added = {*bucket, number, shape};
  *bucket = added;
  return true;
}

Status MatmulAlgoGetHeuristic(Context *context, Descriptor *descriptor, MatrixLayout *a, MatrixLayout *b,
                              MatrixLayout *c, MatrixLayout *d, Preference *preference, int requested,
                              Heuristic *results, int *returned) {
  if (!is(context, kContextMark) || !is(preference, kPreferenceMark) || requested < 1 || results == nullptr ||
      returned == nullptr)
    return invalid("a null argument of the heuristic");
  Shape shape;
  const Status status = check(descriptor, a, b, c, d, &shape);
  if (status != kSuccess) return status;
  *returned = 0;
  const MatrixLayout *const layouts[] = {a, b, c, d};
  for (int i = 0; i < 4; i++) {
    const uint32_t alignment = preference->alignment[i];
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) return invalid("an alignment that is no power of two");
    if (!supported(layouts[i], alignment)) return kNotSupported;
  }
  if (preference->workspace_bytes < kWorkspace) return kNotSupported;
  const auto give = [&](uint64_t number) {
    if (*returned == requested) return;
    Heuristic &result = results[(*returned)++];
    result = {algorithm_for(number, preference->alignment, *descriptor, layouts), kWorkspace, kSuccess, 1.0f, {}};
    allowed(result.algorithm, shape, true);
  };
  if ((preference->reduction_schemes & kReductionComputeType) != 0 && offered_split() != 0) give(offered_split());
  for (uint64_t number = 0; number < kPlainAlgorithms; number++) give(number);
  return kSuccess;
}

Status MatmulAlgoCheck(Context *context, Descriptor *descriptor, MatrixLayout *a, MatrixLayout *b, MatrixLayout *c,
                       MatrixLayout *d, const Algorithm *algorithm, Heuristic *result) {
  if (!is(context, kContextMark) || algorithm == nullptr || result == nullptr)
    return invalid("a null argument of the check");
  if (algorithm->data[0] != kAlgorithmMark || algorithm->data[1] > kShort) return kNotSupported;
  Shape shape;
  const Status status = check(descriptor, a, b, c, d, &shape);
  if (status != kSuccess) return status;
  *result = {*algorithm, kWorkspace, kSuccess, 1.0f, {}};
  allowed(*algorithm, shape, true);
  return kSuccess;
}

Status MatmulAlgoConfigGetAttribute(const Algorithm *algorithm, AlgorithmAttribute attribute, void *value, size_t bytes,
                                    size_t *written) {
  uint32_t scheme;
  if (algorithm == nullptr || attribute != kAlgorithmReductionScheme || bytes != sizeof scheme || written == nullptr)
    return invalid("an attribute of an algorithm that the emulator does not know");
  scheme = algorithm->data[1] < kPlainAlgorithms ? kReductionNone : kReductionComputeType;
  memcpy(value, &scheme, sizeof scheme);
  *written = sizeof scheme;
  return kSuccess;
}

Status Matmul(Context *context, Descriptor *descriptor, const void *alpha, const void *a, MatrixLayout *a_layout,
              const void *b, MatrixLayout *b_layout, const void *beta, const void *c, MatrixLayout *c_layout, void *d,
              MatrixLayout *d_layout, const Algorithm *algorithm, void *workspace, size_t workspace_bytes,
              CUstream_st *) {
  if (!is(context, kContextMark) || alpha == nullptr || beta == nullptr) return invalid("a null argument");
  Shape shape;
  const Status status = check(descriptor, a_layout, b_layout, c_layout, d_layout, &shape);
  if (status != kSuccess) return status;
  const float scale = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
  const void *operands[] = {a, b, c, d};
  const MatrixLayout *layouts[] = {a_layout, b_layout, c_layout, d_layout};
  for (int i = 0; i < 4; i++)
    if (!holds(operands[i], layouts[i])) return invalid("a matrix that is not in one device allocation");
  if (algorithm == nullptr || algorithm->data[0] != kAlgorithmMark || !allowed(*algorithm, shape, false))
    return invalid("an algorithm chosen for another product");
  for (int i = 0; i < 4; i++)
    if (reinterpret_cast<uintptr_t>(operands[i]) % (uintptr_t(1) << (algorithm->data[2] >> (8 * i) & 0xFF)) != 0)
      return invalid("an operand less aligned than the algorithm was chosen for");
  if (workspace == nullptr || workspace_bytes < kWorkspace || reinterpret_cast<uintptr_t>(workspace) % 256 != 0 ||
      !emulator::memory_holds(workspace, workspace_bytes))
    return invalid("a workspace too small, unaligned or not on the device");
  const bool has_bias = descriptor->epilogue == kEpilogueBias;
  const DataType type = d_layout->type;
  if (has_bias && (descriptor->bias == nullptr ||
                   !emulator::memory_holds(descriptor->bias, size_t(shape.m) * size_of(type))))
    return invalid("a bias that is not in one device allocation");
  const Product product = {algorithm->data[1], algorithm->data[3],
                           *descriptor, *a_layout, *b_layout, *c_layout,
                           *d_layout,   shape,     scale,     keep,
                           a,           b,         c,         d,
                           static_cast<char *>(workspace), workspace_bytes};
  return emulator::stream_enqueue(run_product, &product, sizeof product) == cudaSuccess ? kSuccess : kExecutionFailed;
}

}  // namespace
}  // namespace nt::lt

const nt::CublasLt *nt::emulated_cublaslt() {
  static const CublasLt table = {
#define NT_ADDRESS(result, name, parameters) lt::name,
      NT_CUBLASLT_FUNCTIONS(NT_ADDRESS)
#undef NT_ADDRESS
  };
  return &table;
}
