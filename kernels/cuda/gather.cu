// Rows picked out of a batch: the last token of each sequence, before the head.
#include "context.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

// y[i] = x[rows[i]], a unit (16 bytes where both sides allow, else an element) a thread.
template <class Unit>
__global__ void __launch_bounds__(kThreads, 4)
    gather_rows_kernel(Unit *y, const Unit *x, const int32_t *rows, uint64_t total, uint32_t units) {
  const uint64_t index = global_thread();
  if (index >= total) return;
  const ChunkPlace place = chunk_place(index, units);
  y[index] = x[int64_t(rows[place.row]) * units + place.chunk];
}

template <class Unit>
int32_t gather(nt_context *context, void *y, const void *x, const int32_t *rows, int64_t n, int64_t bytes) {
  const int64_t units = bytes / int64_t(sizeof(Unit)), total = n * units;
  NT_CUDA(launch(gather_rows_kernel<Unit>, dim3(unsigned(ceil_div(total, kThreads))), dim3(kThreads), 0,
                 context->stream, static_cast<Unit *>(y), static_cast<const Unit *>(x), rows, uint64_t(total),
                 uint32_t(units)),
          "gather_rows");
  return NT_OK;
}

int32_t gather_rows(nt_context *context, int32_t dtype, void *y, const void *x, const int32_t *rows, int64_t n,
                    int64_t columns) {
  const int32_t *table = device_table(context, rows, n);
  if (table == nullptr) return NT_DEVICE;
  const int64_t bytes = columns * size_of(dtype);
  if (bytes % 16 == 0 && aligned16(y, x)) return gather<uint4>(context, y, x, table, n, bytes);
  if (dtype == NT_F32) return gather<uint32_t>(context, y, x, table, n, bytes);
  return gather<uint16_t>(context, y, x, table, n, bytes);
}

}  // namespace
}  // namespace nt

#include "../entry/gather_rows.h"
