// The device context of the CPU backend.
#pragma once
#include "../check.h"

namespace nt {
struct MatmulState;
}

struct nt_context {
  int threads;
  nt::MatmulState *matmul;  // matmul.cpp's: made at first use, freed by nt_destroy
};

namespace nt {

// Whether the host may read what device pointers point to.
constexpr bool kHostIsDevice = true;

// Whether the CPU has AMX for bf16 and this process may use it (matmul.cpp).
bool has_amx(nt_context *context);

// 256-byte aligned, or null; from kHuge bytes on in huge pages.
constexpr int64_t kHuge = 4 << 20;
void *allocate(int64_t bytes);
void release(void *address);

}  // namespace nt
