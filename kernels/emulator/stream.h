// The order of work: what host code enqueues runs in that order, but not necessarily at once. In the natural order
// (NEFTUNE_EMULATOR_SEED unset or 0) it runs before the call returns. With a seed it waits, as on a busy GPU, until the
// host waits for it or chance lets it run, so that host code that reuses or frees memory too early is found. All
// streams are one queue, which every order of waiting between them allows.
//
// With NEFTUNE_EMULATOR_DRY=1 nothing of it runs at all, and device memory, which reads as zeros, takes no room: what a
// model of any size asks of a GPU can be listed (nt_timeline_read), not computed.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "runtime.h"

#pragma GCC visibility push(hidden)
namespace nt::emulator {

// Whether NEFTUNE_EMULATOR_DRY is 1.
bool dry();

// Both arguments are copies that live until it returns.
typedef cudaError_t (*Work)(void *arguments, void *data);
// Enqueues run(arguments, data). Returns its status where it ran at once, else that of earlier work that failed since.
cudaError_t stream_enqueue(Work run, const void *arguments, size_t bytes, const void *data = nullptr,
                           size_t data_bytes = 0);
// How much has been enqueued so far.
uint64_t stream_position();
// Whether all work up to a position has run.
bool stream_passed(uint64_t position);
// Runs all work up to a position; the status of what failed since the last such status.
cudaError_t stream_wait(uint64_t position);
inline cudaError_t stream_wait() { return stream_wait(UINT64_MAX); }

}  // namespace nt::emulator
#pragma GCC visibility pop
