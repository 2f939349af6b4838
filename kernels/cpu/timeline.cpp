// On the CPU a call's own time says what its work takes: there is nothing to note.
#include "context.h"

namespace nt {
namespace {

int32_t timeline_mark(nt_context *, int64_t) { return fail(NT_UNSUPPORTED, "the CPU has no timeline"); }

int32_t timeline_read(nt_context *, char *, int64_t, int64_t *) {
  return fail(NT_UNSUPPORTED, "the CPU has no timeline");
}

}  // namespace
}  // namespace nt

#include "../entry/timeline.h"
