// cp.async: a copy may land at any time from its issue to the wait that covers it. Here it lands at the wait, with a
// seed sometimes earlier; until then its destination holds NaN, so that a missing wait shows.
#include "scheduler.h"

namespace nt::emulator {
namespace {

bool landed(const Copy &copy) { return copy.operation == nullptr; }

void land(Copy &copy) {
  if (landed(copy)) return;
  copy.operation(copy.destination, copy.source);
  copy.operation = nullptr;
}

}  // namespace

void copies_begin(Thread *thread) { thread->copies = thread->committed = 0; }

void copies_land_some(Thread *thread) {
  for (int i = 0; i < thread->copies; i++)
    if (!landed(thread->pending[i]) && random_below(4) == 0) land(thread->pending[i]);
}

void copies_end(Thread *thread) {
  if (thread->copies > 0) fail("a thread ends with %d cp.async copies that it never waited for", thread->copies);
}

void copy_async(void *destination, const void *source, bool valid, CopyOperation copy) {
  Thread *thread = running();
  if (thread->copies == kMaxCopies) fail("more than %d cp.async copies of one thread under way", kMaxCopies);
  copy(destination, destination);
  Copy &added = thread->pending[thread->copies++];
  added = {destination, valid ? source : nullptr, copy, thread->committed};
  if (randomised && random_below(3) == 0) land(added);
}

void copy_async_commit() { running()->committed++; }

void copy_async_wait(int pending) {
  Thread *thread = running();
  int kept = 0;
  for (int i = 0; i < thread->copies; i++) {
    Copy &copy = thread->pending[i];
    if (copy.group < thread->committed - pending)
      land(copy);
    else
      thread->pending[kept++] = copy;
  }
  thread->copies = kept;
}

}  // namespace nt::emulator
