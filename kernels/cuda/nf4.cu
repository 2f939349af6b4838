// NF4 weights.
#include "context.h"

using nt::fail;

NT_API int32_t nt_weight_create_nf4(nt_context *, int32_t, int64_t, int64_t, const nt_nf4 *, void *, nt_weight **) {
  return fail(NT_UNSUPPORTED, "NF4 weights are not supported yet");
}
NT_API int32_t nt_nf4_quantize(nt_context *, uint8_t *, float *, const void *, int32_t, int64_t) {
  return fail(NT_UNSUPPORTED, "NF4 weights are not supported yet");
}
NT_API int32_t nt_nf4_quantize_absmax(nt_context *, uint8_t *, float *, const float *, int64_t) {
  return fail(NT_UNSUPPORTED, "NF4 weights are not supported yet");
}
NT_API int32_t nt_nf4_dequantize(nt_context *, void *, int32_t, const nt_nf4 *, int64_t) {
  return fail(NT_UNSUPPORTED, "NF4 weights are not supported yet");
}
