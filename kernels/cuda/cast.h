// Conversions between dtypes on the device.
#pragma once
#include "context.h"

namespace nt {

// destination[n] = source[n], both on the device, rounded to nearest even. From f32, bf16 or f16 (at any alignment) to
// f32 or bf16; equal types are copied.
int32_t convert(nt_context *context, void *destination, int32_t destination_dtype, const void *source,
                int32_t source_dtype, int64_t n);

}  // namespace nt
