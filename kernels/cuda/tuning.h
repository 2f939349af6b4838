// Algorithms of cuBLASLt that were timed and chosen, by buckets of sizes: a run whose micro-batches differ in length would
// time anew at nearly every one. As a text they go from one process to another, which then computes the same bits.
#pragma once
#include "context.h"
#include "cublaslt.h"

namespace nt {

// What an algorithm is chosen for; 64-bit fields, so that equal keys have equal bytes.
struct PlanKey {
  int64_t m, n, k, lda, ldb, ldc;  // cuBLASLt's A is our b
  int64_t dtype, c_dtype, transpose_a, transpose_b, bias;
  int64_t align_a, align_b, align_c;
};

struct Tuning;

// Null without memory: then nothing is timed.
Tuning *tuning_create(const nt_context *context, size_t library_version);
void tuning_destroy(Tuning *tuning);

// The choice for the bucket of these sizes, or null. Valid until the next one is kept.
const lt::Algorithm *chosen_for(const Tuning &tuning, const PlanKey &key);
int32_t keep_choice(Tuning *tuning, const PlanKey &key, const lt::Algorithm &algorithm);

// Whether an algorithm that splits k may be used for sums of that length; null where it has not been tried.
const bool *trust_in(const Tuning &tuning, const lt::Algorithm &algorithm, int64_t k);
// What does not fit is tried again.
void keep_trust(Tuning *tuning, const lt::Algorithm &algorithm, int64_t k, bool trusted);

// A line that names library and device, then a line for each choice: its key and its algorithm, in hexadecimal numbers.
// Returns the length, writes as much as fits.
int64_t write_choices(const Tuning &tuning, char *text, int64_t size);
// Adds those of a text; NT_UNSUPPORTED where its first line names another library or device, NT_INVALID where it is
// damaged, and none is added.
int32_t read_choices(Tuning *tuning, const char *text);

}  // namespace nt
