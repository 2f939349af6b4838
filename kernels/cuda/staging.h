// Host memory on its way to the device: small tables through a ring, large arrays through two pinned buffers that
// several threads fill while the device's copy engine empties the other.
#pragma once
#include "context.h"

namespace nt {

int32_t staging_create(nt_context *context);
void staging_destroy(nt_context *context);

// destination (device) = `bytes` of host memory, which is read before this returns. Does not wait for the device
// unless the ring or both buffers are still in use.
int32_t stage_copy(nt_context *context, void *destination, const void *host, int64_t bytes);

// The same with a conversion between f32, bf16 and f16 on the way; the source may have any alignment.
int32_t stage_convert(nt_context *context, void *destination, int32_t destination_dtype, const void *host,
                      int32_t source_dtype, int64_t n);

}  // namespace nt
