// Dropout whose mask is a pure function of (seed, draw, position, module, column), so that the backward pass makes
// it again instead of keeping it.
#include "../entry/arguments.h"
#include "../entry/samples.h"
#include "context.h"
#include "noise.h"
#include "rows.h"

namespace nt {
namespace {

constexpr int kThreads = 256;

struct Mask : DropoutMask {
  const int32_t *borders;  // [sequences + 1]
  const int64_t *draws;    // [sequences]
  int32_t sequences;
};

// y = mask ∘ x, or y += mask ∘ x, a chunk a thread: one or two Philox blocks. y may be x: a thread reads its chunk
// before it writes it. Bytes an element: 4 in bf16, 6 with accumulate.
template <class T, bool vector>
__global__ void __launch_bounds__(kThreads, 4)
    dropout_kernel(T *y, int64_t ldy, const T *x, int64_t ldx, uint64_t total, uint32_t chunks, int columns,
                   Mask mask) {
  constexpr int N = kChunk<T>;
  const uint64_t index = global_thread();
  if (index >= total) return;
  const ChunkPlace place = chunk_place(index, chunks);
  const int j = int(place.chunk) * N, left = columns - j;
  T *to = y + place.row * ldy + j;
  Pack<T> value = load_chunk<vector>(x + place.row * ldx + j, left), old;
  if (mask.accumulate) old = load_chunk<vector>(to, left);
  const int s = sample_of(mask.borders, mask.sequences, int32_t(place.row));
  const uint32_t position = uint32_t(place.row) - uint32_t(mask.borders[s]);
  const uint64_t draw = uint64_t(mask.draws[s]);
  NT_UNROLL
  for (int i = 0; i < N; i += 4) {
    const nt_philox_block words =
        nt_philox(uint32_t(mask.seed), uint32_t(mask.seed >> 32), mask.module << 16 | uint32_t(j + i) >> 2, position,
                  uint32_t(draw), uint32_t(draw >> 32) | uint32_t(NT_STREAM_DROPOUT) << 16);
    NT_UNROLL
    for (int k = 0; k < 4; k++) {
      const bool kept = words.x[k] >> 8 >= mask.threshold;
      const float v = to_float(value.x[i + k]);
      if (!mask.accumulate)
        value.x[i + k] = from_float<T>(kept ? mask.scale * v : 0.0f);
      else
        value.x[i + k] = kept ? from_float<T>(fmaf(mask.scale, v, to_float(old.x[i + k]))) : old.x[i + k];
    }
  }
  store_chunk<vector>(to, value, left);
}

template <class T>
int32_t dropout(nt_context *context, T *y, int64_t ldy, const T *x, int64_t ldx, int64_t tokens, int64_t columns,
                const DropoutMask &mask_of, const HostSamples &samples) {
  const Mask mask = {mask_of, device_table(context, samples.borders, samples.count + 1),
                     device_table(context, samples.draws, samples.count), int32_t(samples.count)};
  if (mask.borders == nullptr || mask.draws == nullptr) return NT_DEVICE;
  const bool vector = columns % 8 == 0 && ldy % 8 == 0 && ldx % 8 == 0 && aligned16(y, x);
  const int64_t chunks = ceil_div(columns, kChunk<T>), total = tokens * chunks;
  auto *kernel = vector ? dropout_kernel<T, true> : dropout_kernel<T, false>;
  NT_CUDA(launch(kernel, dim3(unsigned(ceil_div(total, kThreads))), dim3(kThreads), 0, context->stream, y, ldy, x,
                 ldx, uint64_t(total), uint32_t(chunks), int(columns), mask),
          "dropout");
  return NT_OK;
}

}  // namespace
}  // namespace nt

#include "../entry/dropout.h"
