// What a context's stream runs, kernel by kernel: see nt_timeline_mark in ../neftune.h.
#pragma once
#include "context.h"

namespace nt {

// Ends the timeline where it is this context's, and frees its events.
void timeline_forget(nt_context *context);

}  // namespace nt
