// The backend has timeline_mark and timeline_read, which appends its JSON to what `length` says is there.
#pragma once
#include "entry.h"

NT_API int32_t nt_timeline_mark(nt_context *context, int64_t call) { return nt::timeline_mark(context, call); }

NT_API int32_t nt_timeline_read(nt_context *context, char *json, int64_t size, int64_t *bytes) {
  *bytes = 0;
  NT_CHECK(size >= 0, "timeline_read: size must be ≥ 0, got %lld", (long long)size);
  NT_TRY(nt::timeline_read(context, json, size, bytes));
  ++*bytes;
  return NT_OK;
}
