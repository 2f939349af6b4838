// Choices between cuBLASLt's algorithms: see tuning.h. A list in the order in which they were made; it is asked once for each
// new shape.
#include "tuning.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "../library_search.h"

namespace nt {
namespace {

struct Choice {
  PlanKey key;  // its sizes are those of its bucket
  lt::Algorithm algorithm;
};

constexpr int kKeyWords = sizeof(PlanKey) / 8, kWords = sizeof(Choice) / 8;
static_assert(sizeof(Choice) == 8 * (kKeyWords + 8), "a choice is words");

// Rounded up to two significant bits behind the first: at most a quarter more.
int64_t bucket(int64_t size) {
  int64_t step = 1;
  while (size > 8 * step) step *= 2;
  return ceil_div(size, step) * step;
}

// Tokens are the rows of a product (cuBLASLt's n), or in the gradient of a weight its k.
PlanKey bucket_of(PlanKey key) {
  key.n = bucket(key.n);
  key.k = bucket(key.k);
  return key;
}

// A choice's numbers from *at on, a blank between two and the line's end behind the last. *at is what follows then, or
// the number that is not so.
bool read_choice(Choice *choice, const char **at) {
  auto *words = reinterpret_cast<uint64_t *>(choice);
  for (int word = 0; word < kWords; word++) {
    if (!isxdigit(static_cast<unsigned char>(**at))) return false;
    char *end;
    words[word] = strtoull(*at, &end, 16);
    if (*end != (word + 1 < kWords ? ' ' : '\n')) return false;
    *at = end + 1;
  }
  return true;
}

}  // namespace

constexpr int kMostTried = 512;

struct Tuning {
  char head[320];
  Choice *choices;
  int64_t count, capacity;
  struct {
    lt::Algorithm algorithm;
    int64_t k;
    bool trusted;
  } tried[kMostTried];
  int tried_count;
};

Tuning *tuning_create(const nt_context *context, size_t library_version) {
  auto *tuning = static_cast<Tuning *>(calloc(1, sizeof(Tuning)));
  if (tuning != nullptr)
    snprintf(tuning->head, sizeof tuning->head, "cuBLASLt %zu, %s, %d multiprocessors", library_version, context->name,
             context->multiprocessors);
  return tuning;
}

void tuning_destroy(Tuning *tuning) {
  if (tuning == nullptr) return;
  free(tuning->choices);
  free(tuning);
}

const lt::Algorithm *chosen_for(const Tuning &tuning, const PlanKey &key) {
  const PlanKey wanted = bucket_of(key);
  for (int64_t i = 0; i < tuning.count; i++)
    if (memcmp(&tuning.choices[i].key, &wanted, sizeof wanted) == 0) return &tuning.choices[i].algorithm;
  return nullptr;
}

int32_t keep_choice(Tuning *tuning, const PlanKey &key, const lt::Algorithm &algorithm) {
  if (tuning->count == tuning->capacity) {
    const int64_t capacity = tuning->capacity > 0 ? 2 * tuning->capacity : 64;
    auto *larger = static_cast<Choice *>(realloc(tuning->choices, size_t(capacity) * sizeof(Choice)));
    if (larger == nullptr) return fail(NT_OUT_OF_MEMORY, "matmul: out of memory");
    tuning->choices = larger;
    tuning->capacity = capacity;
  }
  tuning->choices[tuning->count++] = {bucket_of(key), algorithm};
  return NT_OK;
}

const bool *trust_in(const Tuning &tuning, const lt::Algorithm &algorithm, int64_t k) {
  for (int i = 0; i < tuning.tried_count; i++) {
    const auto &each = tuning.tried[i];
    if (each.k == k && memcmp(&each.algorithm, &algorithm, sizeof algorithm) == 0) return &each.trusted;
  }
  return nullptr;
}

void keep_trust(Tuning *tuning, const lt::Algorithm &algorithm, int64_t k, bool trusted) {
  if (tuning->tried_count < kMostTried) tuning->tried[tuning->tried_count++] = {algorithm, k, trusted};
}

int64_t write_choices(const Tuning &tuning, char *text, int64_t size) {
  Text out = {text, size, 0};
  add(&out, "%s\n", tuning.head);
  for (int64_t i = 0; i < tuning.count; i++) {
    const auto *words = reinterpret_cast<const uint64_t *>(&tuning.choices[i]);
    for (int word = 0; word < kWords; word++)
      add(&out, "%" PRIx64 "%c", words[word], word + 1 < kWords ? ' ' : '\n');
  }
  return out.length;
}

int32_t read_choices(Tuning *tuning, const char *text) {
  const size_t head = strlen(tuning->head);
  const int line = int(strcspn(text, "\n"));
  if (strncmp(text, tuning->head, head) != 0 || text[head] != '\n')
    return fail(NT_UNSUPPORTED, "these algorithms were chosen with %.*s; here is %s", line, text, tuning->head);
  const int64_t before = tuning->count;
  int32_t status = NT_OK;
  for (const char *at = text + line + 1; *at != 0 && status == NT_OK;) {
    Choice choice = {};
    if (!read_choice(&choice, &at)) {
      status = fail(NT_INVALID, "the text of chosen algorithms is damaged at byte %lld", (long long)(at - text));
    } else if (chosen_for(*tuning, choice.key) == nullptr) {
      status = keep_choice(tuning, choice.key, choice.algorithm);
    }
  }
  if (status != NT_OK) tuning->count = before;
  return status;
}

}  // namespace nt
