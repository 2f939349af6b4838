// The few declarations of cuBLASLt that the backend uses, so that building needs none of NVIDIA's 400 MB
// package. Names, numbers and layouts are those of cublasLt.h, the same in 12.x and 13.x for
// what is here; the library itself is found and opened at run time (cublaslt.cu).
//
// The emulated build opens nothing: kernels/emulator/cublaslt.cpp has functions of the same meaning and defines
// nt::emulated_cublaslt().
#pragma once
#include <stddef.h>
#include <stdint.h>

struct CUstream_st;

namespace nt {
namespace lt {

// Enumerations are 32 bits wide in the library's interface.
enum Status : int32_t { kSuccess = 0, kNotSupported = 15 };
enum DataType : int32_t { kFloat32 = 0, kBfloat16 = 14 };
enum ComputeType : int32_t { kCompute32 = 68 };  // float32 sums; float32 operands as they are, not as TF32
enum Operation : int32_t { kNone = 0, kTranspose = 1 };
enum Epilogue : uint32_t { kEpilogueDefault = 1, kEpilogueBias = 4 };
// How the parts of a split k are added: none are; or in float32 in the workspace, by a step of its own.
enum ReductionScheme : uint32_t { kReductionNone = 0, kReductionComputeType = 2 };

enum DescriptorAttribute : int32_t {
  kTransposeA = 3,    // int32_t, an Operation
  kTransposeB = 4,    // int32_t, an Operation
  kEpilogue = 7,      // uint32_t
  kBiasPointer = 8,   // const void *; the vector has D's type
};
enum PreferenceAttribute : int32_t {
  kMaxWorkspaceBytes = 1,    // uint64_t
  kReductionSchemeMask = 3,  // uint32_t, of ReductionScheme; 0 allows no split of k
  kMinAlignmentA = 5,        // uint32_t, bytes; so are the next three
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8,
};

enum AlgorithmAttribute : int32_t {
  kAlgorithmReductionScheme = 3,  // uint32_t
};

// The library's own objects, made and freed by it.
struct Context;
struct MatrixLayout;
struct Descriptor;
struct Preference;

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int32_t reserved[4];
};
static_assert(sizeof(Heuristic) == 96, "laid out as cublasLtMatmulHeuristicResult_t");

}  // namespace lt

// X(result, name without its prefix cublasLt, parameters): every function that is resolved.
// Matrices are column-major: D[m,n] = alpha · op(A)[m,k] · op(B)[k,n] + beta · C[m,n] (+ bias[m] in every column).
#define NT_CUBLASLT_FUNCTIONS(X)                                                                                      \
  X(lt::Status, Create, (lt::Context * *context))                                                                     \
  X(lt::Status, Destroy, (lt::Context * context))                                                                     \
  X(size_t, GetVersion, (void))                                                                                       \
  X(const char *, GetStatusString, (lt::Status status))                                                               \
  X(lt::Status, MatrixLayoutCreate,                                                                                   \
    (lt::MatrixLayout * *layout, lt::DataType type, uint64_t rows, uint64_t columns, int64_t ld))                     \
  X(lt::Status, MatrixLayoutDestroy, (lt::MatrixLayout * layout))                                                     \
  X(lt::Status, MatmulDescCreate, (lt::Descriptor * *descriptor, lt::ComputeType compute, lt::DataType scale))        \
  X(lt::Status, MatmulDescDestroy, (lt::Descriptor * descriptor))                                                     \
  X(lt::Status, MatmulDescSetAttribute,                                                                               \
    (lt::Descriptor * descriptor, lt::DescriptorAttribute attribute, const void *value, size_t bytes))                \
  X(lt::Status, MatmulPreferenceCreate, (lt::Preference * *preference))                                               \
  X(lt::Status, MatmulPreferenceDestroy, (lt::Preference * preference))                                               \
  X(lt::Status, MatmulPreferenceSetAttribute,                                                                         \
    (lt::Preference * preference, lt::PreferenceAttribute attribute, const void *value, size_t bytes))                \
  X(lt::Status, MatmulAlgoGetHeuristic,                                                                               \
    (lt::Context * context, lt::Descriptor * descriptor, lt::MatrixLayout * a, lt::MatrixLayout * b,                  \
     lt::MatrixLayout * c, lt::MatrixLayout * d, lt::Preference * preference, int requested,                          \
     lt::Heuristic * results, int *returned))                                                                         \
  X(lt::Status, MatmulAlgoCheck,                                                                                      \
    (lt::Context * context, lt::Descriptor * descriptor, lt::MatrixLayout * a, lt::MatrixLayout * b,                  \
     lt::MatrixLayout * c, lt::MatrixLayout * d, const lt::Algorithm *algorithm, lt::Heuristic *result))              \
  X(lt::Status, MatmulAlgoConfigGetAttribute,                                                                         \
    (const lt::Algorithm *algorithm, lt::AlgorithmAttribute attribute, void *value, size_t bytes, size_t *written))   \
  X(lt::Status, Matmul,                                                                                               \
    (lt::Context * context, lt::Descriptor * descriptor, const void *alpha, const void *a,                            \
     lt::MatrixLayout *a_layout, const void *b, lt::MatrixLayout *b_layout, const void *beta, const void *c,          \
     lt::MatrixLayout *c_layout, void *d, lt::MatrixLayout *d_layout, const lt::Algorithm *algorithm,                 \
     void *workspace, size_t workspace_bytes, CUstream_st *stream))

struct CublasLt {
#define NT_DECLARE(result, name, parameters) result(*name) parameters;
  NT_CUBLASLT_FUNCTIONS(NT_DECLARE)
#undef NT_DECLARE
};

// The library's functions, opened once a process and never closed. Null when it is not found or cannot be opened:
// then nt_last_error says where it was looked for and what to do.
const CublasLt *cublaslt();

#ifdef NT_EMULATED
const CublasLt *emulated_cublaslt();
#endif

}  // namespace nt
