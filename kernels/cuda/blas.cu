// Products by cuBLASLt. It is column-major: a row-major c = a·b is its D = bᵀ·aᵀ, so our b is its A and our a its B,
// and what is stored row by row is "not transposed" to it. Nothing is copied or transposed in memory: y = x·Wᵀ is its
// TN, dx = dy·W its NN, dW = dyᵀ·x its NT product.
//
// Which algorithm runs decides the bits of the result. By default it is the first that cuBLASLt's heuristic names: the
// same for the same library, device, shape, types, row distances and alignments, so a resumed run goes on exactly as
// the one before. NEFTUNE_TUNE_MATMUL=1 times the first eight instead and keeps the fastest: a few per cent at some
// shapes, but two processes may choose differently, and their runs then differ in the last bits, unless one takes over
// the other's choices (tuning.h). By default k is never split, as sums of parts may depend on timing; algorithms that split
// it are timed beside the others once they have shown equal bits (trial.h).
#include "blas.h"

#include <stdio.h>
#include <stdlib.h>

#include "cublaslt.h"
#include "trial.h"
#include "tuning.h"

namespace nt {

struct Plan {
  PlanKey key;
  lt::Descriptor *descriptor;
  lt::MatrixLayout *a, *b, *c;
  lt::Algorithm algorithm;
  bool plain;  // cuBLASLt has no algorithm: our own kernel
};

struct Blas {
  const CublasLt *lt;
  lt::Context *handle;
  lt::Preference *preference;
  Tuning *tuning;  // null: off
  bool refused_split;  // and said so
  Plan **plans;    // open addressing; null: free
  int64_t capacity, count;
};

namespace {

constexpr int64_t kLargestPlanTable = 1 << 14;
constexpr int kCandidates = 8;
// The end of the workspace, where a bias rounded to bf16 lies beside what cuBLASLt uses.
constexpr int64_t kBiasBytes = 1 << 20;

__global__ __launch_bounds__(256, 4) void bias_to_bf16_kernel(bf16 *destination, const float *source, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < n) destination[i] = from_float<bf16>(source[i]);
}

// The largest power of two up to `most` that divides the address.
int64_t alignment(const void *p, uint64_t most) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(p) | most;
  return int64_t(bits & (~bits + 1));
}

uint64_t hash(const PlanKey &key) {
  const auto *word = reinterpret_cast<const uint64_t *>(&key);
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < sizeof key / 8; i++) {
    h = (h ^ word[i]) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
  }
  return h;
}

int32_t refuse(const Blas &blas, lt::Status status, const PlanKey &key, const char *what) {
  return fail(NT_DEVICE, "matmul: cuBLASLt's %s failed for [%lld, %lld] = [%lld, %lld]·[%lld, %lld]: %s", what,
              (long long)key.n, (long long)key.m, (long long)key.n, (long long)key.k, (long long)key.k,
              (long long)key.m, blas.lt->GetStatusString(status));
}

void destroy(const Blas &blas, Plan *plan) {
  if (plan == nullptr) return;
  if (plan->descriptor != nullptr) blas.lt->MatmulDescDestroy(plan->descriptor);
  for (lt::MatrixLayout *layout : {plan->a, plan->b, plan->c})
    if (layout != nullptr) blas.lt->MatrixLayoutDestroy(layout);
  free(plan);
}

void forget_plans(Blas *blas) {
  for (int64_t i = 0; i < blas->capacity; i++) destroy(*blas, blas->plans[i]);
  free(blas->plans);
  blas->plans = nullptr;
  blas->capacity = blas->count = 0;
}

// The slot that holds `key`, or the free one where it belongs.
Plan **find(const Blas &blas, const PlanKey &key) {
  uint64_t at = hash(key);
  for (;; at++) {
    Plan **slot = &blas.plans[at & uint64_t(blas.capacity - 1)];
    if (*slot == nullptr || memcmp(&(*slot)->key, &key, sizeof key) == 0) return slot;
  }
}

// Makes room for one more plan. Lengths of samples may make a new shape every step: at the largest size all are
// forgotten, which costs a question to the heuristic each.
bool reserve(Blas *blas) {
  if (2 * (blas->count + 1) <= blas->capacity) return true;
  if (blas->capacity >= kLargestPlanTable) forget_plans(blas);
  Blas larger = *blas;
  larger.capacity = blas->capacity > 0 ? 2 * blas->capacity : 256;
  larger.plans = static_cast<Plan **>(calloc(size_t(larger.capacity), sizeof(Plan *)));
  if (larger.plans == nullptr) return false;
  for (int64_t i = 0; i < blas->capacity; i++)
    if (blas->plans[i] != nullptr) *find(larger, blas->plans[i]->key) = blas->plans[i];
  free(blas->plans);
  *blas = larger;
  return true;
}

lt::Status describe(const Blas &blas, Plan *plan, const void *bias) {
  const PlanKey &key = plan->key;
  const CublasLt &lib = *blas.lt;
  const auto type = [](int64_t dtype) { return dtype == NT_F32 ? lt::kFloat32 : lt::kBfloat16; };
  lt::Status status = lib.MatmulDescCreate(&plan->descriptor, lt::kCompute32, lt::kFloat32);
  const auto set = [&](lt::DescriptorAttribute attribute, const void *value, size_t bytes) {
    if (status == lt::kSuccess) status = lib.MatmulDescSetAttribute(plan->descriptor, attribute, value, bytes);
  };
  const int32_t a = key.transpose_a ? lt::kTranspose : lt::kNone, b = key.transpose_b ? lt::kTranspose : lt::kNone;
  set(lt::kTransposeA, &a, sizeof a);
  set(lt::kTransposeB, &b, sizeof b);
  if (key.bias) {
    const uint32_t epilogue = lt::kEpilogueBias;
    set(lt::kEpilogue, &epilogue, sizeof epilogue);
    set(lt::kBiasPointer, &bias, sizeof bias);
  }
  const auto layout = [&](lt::MatrixLayout **result, int64_t dtype, int64_t rows, int64_t columns, int64_t ld) {
    if (status == lt::kSuccess)
      status = lib.MatrixLayoutCreate(result, type(dtype), uint64_t(rows), uint64_t(columns), ld);
  };
  layout(&plan->a, key.dtype, a ? key.k : key.m, a ? key.m : key.k, key.lda);
  layout(&plan->b, key.dtype, b ? key.n : key.k, b ? key.k : key.n, key.ldb);
  layout(&plan->c, key.c_dtype, key.m, key.n, key.ldc);
  return status;
}

lt::Status prefer(const Blas &blas, const PlanKey &key, int64_t workspace_bytes) {
  lt::Status status = lt::kSuccess;
  const auto set = [&](lt::PreferenceAttribute attribute, const void *value, size_t bytes) {
    if (status == lt::kSuccess)
      status = blas.lt->MatmulPreferenceSetAttribute(blas.preference, attribute, value, bytes);
  };
  const uint64_t workspace = uint64_t(workspace_bytes);
  const uint32_t reduction = lt::kReductionNone;
  const uint32_t a = uint32_t(key.align_a), b = uint32_t(key.align_b), c = uint32_t(key.align_c);
  // A bias has no alignment of its own to tell: the epilogue reads it as it writes D.
  const uint32_t d = key.bias != 0 && key.bias < key.align_c ? uint32_t(key.bias) : c;
  set(lt::kMaxWorkspaceBytes, &workspace, sizeof workspace);
  set(lt::kReductionSchemeMask, &reduction, sizeof reduction);
  set(lt::kMinAlignmentA, &a, sizeof a);
  set(lt::kMinAlignmentB, &b, sizeof b);
  set(lt::kMinAlignmentC, &c, sizeof c);
  set(lt::kMinAlignmentD, &d, sizeof d);
  return status;
}

// One product with this plan and algorithm, into `d` (whose old contents count when accumulating).
lt::Status run(nt_context *context, const Plan &plan, const lt::Algorithm &algorithm, const Product &p, void *d,
               int64_t workspace_bytes) {
  const float beta = p.accumulate ? 1.0f : 0.0f;
  const Blas &blas = *context->blas;
  const Watched watched(context->stream, {nullptr, "matmul", 0, 0, p.m, p.n, p.k, int32_t(size_of(p.a.dtype)),
                                          int32_t(size_of(p.c_dtype)), p.accumulate});
  return blas.lt->Matmul(blas.handle, plan.descriptor, &p.alpha, p.b.data, plan.a, p.a.data, plan.b, &beta, d, plan.c,
                         d, plan.c, &algorithm, context->workspace, size_t(workspace_bytes), context->stream);
}

// Whether the algorithm adds parts of k that were summed apart. Unknown counts as yes.
bool splits_k(const Blas &blas, const lt::Algorithm &algorithm) {
  uint32_t scheme = lt::kReductionNone;
  size_t written;
  const lt::Status status = blas.lt->MatmulAlgoConfigGetAttribute(&algorithm, lt::kAlgorithmReductionScheme, &scheme,
                                                                  sizeof scheme, &written);
  return status != lt::kSuccess || scheme != lt::kReductionNone;
}

// The plan's algorithm is what its bucket of sizes has been given, where that can make this product; a bucket that has
// nothing yet is given the fastest of the candidates, and nothing where none was timed.
int32_t tune(nt_context *context, Plan *plan, const Product &p, const void *bias, const lt::Heuristic *candidates,
             int count, int64_t workspace_bytes) {
  Blas &blas = *context->blas;
  const auto by = [&](const lt::Algorithm &algorithm) {
    return [&, algorithm](const Product &product, const void *own_bias) {
      lt::Status status = lt::kSuccess;
      if (own_bias != nullptr)
        status = blas.lt->MatmulDescSetAttribute(plan->descriptor, lt::kBiasPointer, &own_bias, sizeof own_bias);
      return status == lt::kSuccess &&
             run(context, *plan, algorithm, product, product.c, workspace_bytes) == lt::kSuccess;
    };
  };
  // The first candidate does not split k.
  const auto may_run = [&](const lt::Algorithm &algorithm) {
    if (!splits_k(blas, algorithm)) return true;
    const bool *known = trust_in(*blas.tuning, algorithm, p.k);
    if (known != nullptr) return *known;
    const Trust trust = trust_by_trial(context, p, bias, by(algorithm), by(candidates[0].algorithm));
    if (trust == Trust::kUnknown) return false;
    const bool trusted = trust == Trust::kGiven;
    keep_trust(blas.tuning, algorithm, p.k, trusted);
    if (!trusted && !blas.refused_split) {
      blas.refused_split = true;
      fprintf(stderr,
              "neftune: an algorithm of cuBLASLt that splits k = %lld did not give the same, right bits each time; such "
              "are not used\n",
              (long long)p.k);
    }
    return trusted;
  };
  const lt::Algorithm *chosen = chosen_for(*blas.tuning, plan->key);
  if (chosen == nullptr) {
    Trial trial(context, p);
    for (int i = 0; i < count; i++)
      if (candidates[i].state == lt::kSuccess && may_run(candidates[i].algorithm))
        trial.time(i, bias, by(candidates[i].algorithm));
    if (trial.fastest() < 0) return NT_OK;
    plan->algorithm = candidates[trial.fastest()].algorithm;
    return keep_choice(blas.tuning, plan->key, plan->algorithm);
  }
  lt::Heuristic result = {};
  const lt::Status status = blas.lt->MatmulAlgoCheck(blas.handle, plan->descriptor, plan->a, plan->b, plan->c, plan->c,
                                                     chosen, &result);
  if (status == lt::kSuccess && result.state == lt::kSuccess && int64_t(result.workspace_bytes) <= workspace_bytes &&
      may_run(*chosen))
    plan->algorithm = *chosen;
  return NT_OK;
}

int32_t choose(nt_context *context, Plan *plan, const Product &p, const void *bias, int64_t workspace_bytes) {
  const Blas &blas = *context->blas;
  lt::Status status = describe(blas, plan, bias);
  if (status == lt::kSuccess) status = prefer(blas, plan->key, workspace_bytes);
  if (status != lt::kSuccess) return refuse(blas, status, plan->key, "description");
  lt::Heuristic candidates[2 * kCandidates];
  int count = 0;
  const auto ask = [&](int wanted, lt::Heuristic *results, int *given) {
    return blas.lt->MatmulAlgoGetHeuristic(blas.handle, plan->descriptor, plan->a, plan->b, plan->c, plan->c,
                                           blas.preference, wanted, results, given);
  };
  status = ask(blas.tuning != nullptr ? kCandidates : 1, candidates, &count);
  if (status != lt::kSuccess && status != lt::kNotSupported) return refuse(blas, status, plan->key, "heuristic");
  if (status == lt::kNotSupported || count == 0 || candidates[0].state != lt::kSuccess) {
    plan->plain = true;
    return NT_OK;
  }
  plan->algorithm = candidates[0].algorithm;
  if (blas.tuning == nullptr) return NT_OK;
  const uint32_t split = lt::kReductionComputeType;
  int others = 0;
  if (blas.lt->MatmulPreferenceSetAttribute(blas.preference, lt::kReductionSchemeMask, &split, sizeof split) ==
          lt::kSuccess &&
      ask(kCandidates, candidates + count, &others) == lt::kSuccess) {
    for (int i = count, end = count + others; i < end; i++)
      if (splits_k(blas, candidates[i].algorithm)) candidates[count++] = candidates[i];
  }
  return tune(context, plan, p, bias, candidates, count, workspace_bytes);
}

// From this many multiplications on, a product that cuBLASLt does not make is worth a word.
constexpr double kBigProduct = double(1 << 27);

// The same by our own kernel, counted and said once where that takes long.
int32_t without_cublaslt(nt_context *context, const Product &p) {
  if (double(p.m) * double(p.n) * double(p.k) >= kBigProduct && context->big_plain_products++ == 0) {
    const char *type = p.a.dtype == NT_F32 ? "f32" : "bf16";
    fprintf(stderr,
            "neftune: cuBLASLt has no algorithm for a product [%lld, %lld]·[%lld, %lld] in %s on this GPU; a much slower "
            "kernel makes it (neftune doctor checks cuBLASLt)\n",
            (long long)p.m, (long long)p.k, (long long)p.k, (long long)p.n, type);
  }
  return matmul_plain(context, p);
}

// bf16 at an odd multiple of two bytes, or rows at one: cuBLASLt's kernels copy at least four bytes at a time.
bool odd(const void *data, int32_t dtype, int64_t ld) {
  return dtype == NT_BF16 && (reinterpret_cast<uintptr_t>(data) % 4 != 0 || ld % 2 != 0);
}

}  // namespace

int32_t matmul(nt_context *context, const Product &p) {
  if (p.m == 0 || p.n == 0) return NT_OK;
  NT_CHECK(p.a.dtype == p.b.dtype && (p.c_dtype == p.a.dtype || p.c_dtype == NT_F32),
           "matmul: dtypes %d and %d do not go into %d", int(p.a.dtype), int(p.b.dtype), int(p.c_dtype));
  const bool transpose_a = p.b.column != 1, transpose_b = p.a.column != 1;  // in cuBLASLt's sense
  // Where both strides are 1 there is one row or one column, and the row distance may be what cuBLASLt asks for.
  const auto at_least = [](int64_t ld, int64_t rows) { return ld < rows ? rows : ld; };
  const int64_t lda = transpose_a ? p.b.column : at_least(p.b.row, p.n);
  const int64_t ldb = transpose_b ? p.a.column : at_least(p.a.row, p.k);
  const bool round_bias = p.bias != nullptr && p.c_dtype == NT_BF16;
  if (p.k == 0 || p.m > INT32_MAX || p.n > INT32_MAX || p.k > INT32_MAX || odd(p.a.data, p.a.dtype, ldb) ||
      odd(p.b.data, p.b.dtype, lda) || odd(p.c, p.c_dtype, p.ldc) || (round_bias && p.n * 2 > kBiasBytes))
    return without_cublaslt(context, p);

  int64_t workspace_bytes = context->workspace_bytes;
  const void *bias = p.bias;
  if (round_bias) {
    workspace_bytes -= kBiasBytes;
    bf16 *rounded = reinterpret_cast<bf16 *>(static_cast<char *>(context->workspace) + workspace_bytes);
    NT_CUDA(launch(bias_to_bf16_kernel, dim3(unsigned(ceil_div(p.n, 256))), dim3(256), 0, context->stream, rounded,
                   p.bias, p.n),
            "matmul");
    bias = rounded;
  }

  Blas &blas = *context->blas;
  // Nothing is copied more than 16 bytes at a time: tiles of rows say no more, so that all have one algorithm.
  const auto aligned = [&](const void *operand) { return alignment(operand, p.is_tile ? 16 : 256); };
  const PlanKey key = {p.n, p.m, p.k, lda, ldb, p.ldc, p.a.dtype, p.c_dtype, transpose_a, transpose_b,
                       bias != nullptr ? aligned(bias) : 0, aligned(p.b.data), aligned(p.a.data),
                       aligned(p.c)};
  if (!reserve(&blas)) return fail(NT_OUT_OF_MEMORY, "matmul: out of memory");
  Plan **slot = find(blas, key);
  if (*slot == nullptr) {
    auto *plan = static_cast<Plan *>(calloc(1, sizeof(Plan)));
    if (plan == nullptr) return fail(NT_OUT_OF_MEMORY, "matmul: out of memory");
    plan->key = key;
    const int32_t status = choose(context, plan, p, bias, workspace_bytes);
    if (status != NT_OK) {
      destroy(blas, plan);
      return status;
    }
    *slot = plan;
    blas.count++;
  }
  const Plan &plan = **slot;
  if (plan.plain) return without_cublaslt(context, p);
  lt::Status status = lt::kSuccess;
  if (bias != nullptr) status = blas.lt->MatmulDescSetAttribute(plan.descriptor, lt::kBiasPointer, &bias, sizeof bias);
  if (status == lt::kSuccess) status = run(context, plan, plan.algorithm, p, p.c, workspace_bytes);
  return status == lt::kSuccess ? NT_OK : refuse(blas, status, key, "product");
}

int32_t blas_create(nt_context *context) {
  const CublasLt *lib = cublaslt();
  if (lib == nullptr) return NT_UNSUPPORTED;
  auto *blas = static_cast<Blas *>(calloc(1, sizeof(Blas)));
  if (blas == nullptr) return fail(NT_OUT_OF_MEMORY, "out of memory");
  const char *tune = getenv("NEFTUNE_TUNE_MATMUL");
  blas->lt = lib;
  context->blas = blas;
  if (tune != nullptr && strcmp(tune, "1") == 0) blas->tuning = tuning_create(context, lib->GetVersion());
  lt::Status status = lib->Create(&blas->handle);
  if (status == lt::kSuccess) status = lib->MatmulPreferenceCreate(&blas->preference);
  if (status == lt::kSuccess) return NT_OK;
  blas_destroy(context);
  return fail(NT_DEVICE, "cuBLASLt %lld cannot start on this device: %s", (long long)lib->GetVersion(),
              lib->GetStatusString(status));
}

int64_t blas_choices(nt_context *context, char *text, int64_t size) {
  return context->blas->tuning == nullptr ? 0 : write_choices(*context->blas->tuning, text, size);
}

int32_t blas_use_choices(nt_context *context, const char *text) {
  return context->blas->tuning == nullptr ? int32_t(NT_OK) : read_choices(context->blas->tuning, text);
}

void blas_destroy(nt_context *context) {
  Blas *blas = context->blas;
  if (blas == nullptr) return;
  forget_plans(blas);
  tuning_destroy(blas->tuning);
  if (blas->preference != nullptr) blas->lt->MatmulPreferenceDestroy(blas->preference);
  if (blas->handle != nullptr) blas->lt->Destroy(blas->handle);
  free(blas);
  context->blas = nullptr;
}

}  // namespace nt
