// An NF4 weight expanded in the layout that products read: dequantizing costs no more for it, while they would else bring
// the matrix into this layout every time (5 to 10 % of a product). Values are written in units of four bytes: a float, or
// two bf16 that follow each other along k.
//
// For oneDNN the right operand b[k, n] is cut into panels of 64 columns, 64 units for each step along k: [k][64], in bf16
// [k / 2][64]. For AMX's products (amx_packing.h) it is cut into blocks of 32 columns, [k / 32][2 tiles][16][16 units].
#include "amx.h"
#include "nf4_block.h"
#include "parallel.h"
#include "weight.h"

namespace nt {

#ifdef __AVX512F__

namespace {

// Where units lie whose columns begin at a multiple of 16, in panels or in tiles; there are `steps` along k.
struct Places {
  uint32_t *data;
  int64_t steps;
  bool tiles;

  // From one step to the next, within 16 that begin at a multiple of 16.
  int64_t distance() const { return tiles ? kEdge : kPanel; }
  uint32_t *at(int64_t step, int64_t column) const {
    if (!tiles) return data + column / kPanel * kPanel * steps + step * kPanel + column % kPanel;
    constexpr int64_t columns = 2 * kEdge;
    return data + column / columns * columns * steps + step / kEdge * kBlockStep + column % columns / kEdge * kTileSize +
           step % kEdge * kEdge;
  }
};

// `out` steps apart in `to`, unit i of every row of 16 units: units is transposed.
inline void transpose_16(uint32_t *to, int64_t distance, const __m512i (&units)[16]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(units[i], units[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(units[i], units[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int half = 0; half < 2; half++) {
      b[i + 2 * half] = _mm512_unpacklo_epi64(a[i + half], a[i + 2 + half]);
      b[i + 2 * half + 1] = _mm512_unpackhi_epi64(a[i + half], a[i + 2 + half]);
    }
  // b[4·g + j] has, in 128-bit lane l, unit 4·l + j of rows 4·g … 4·g + 3.
  for (int j = 0; j < 4; j++) {
    const __m512i low = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x44), high = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xEE);
    const __m512i low2 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x44);
    const __m512i high2 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xEE);
    _mm512_storeu_si512(to + j * distance, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(to + (4 + j) * distance, _mm512_shuffle_i32x4(low, low2, 0xDD));
    _mm512_storeu_si512(to + (8 + j) * distance, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(to + (12 + j) * distance, _mm512_shuffle_i32x4(high, high2, 0xDD));
  }
}

// Wᵀ: k runs along W's rows. Sixteen rows at a time are looked up and transposed.
void expand_transpose(int threads, const nt_weight *weight, bool tiles) {
  constexpr int64_t kRows = 16;
  const int64_t in = weight->in, blocks = in / kBlock;
  const int32_t stored = int32_t(weight->nf4.dtype), dtype = weight->dtype;
  const Places places = {static_cast<uint32_t *>(weight->scratch), dtype == NT_F32 ? in : in / 2, tiles};
  const int groups = dtype == NT_F32 ? 4 : 2;  // of 16 units in a block of 64 values
  const Absmax absmax(weight->nf4, weight->out * in);
  parallel_for(threads, weight->out / kRows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kRows; first < end * kRows; first += kRows) {
      for (int64_t b = 0; b < blocks; b++) {
        __m512i units[4][kRows];
        for (int64_t r = 0; r < kRows; r++) {
          const int64_t block = (first + r) * blocks + b;
          const uint8_t *codes = weight->nf4.codes + block * kBlock / 2;
          const Values values = values_of(absmax.at(block), stored, dtype);
          if (dtype == NT_F32) {
            for (int g = 0; g < 4; g++) units[g][r] = (__m512i)look_up(values, codes + 8 * g);
          } else {
            const Values16 narrowed = narrow(values, dtype);
            for (int g = 0; g < 2; g++) units[g][r] = look_up_32(narrowed, codes + 16 * g);
          }
        }
        for (int g = 0; g < groups; g++)
          transpose_16(places.at((b * groups + g) * 16, first), places.distance(), units[g]);
      }
    }
  });
}

// W: k runs over W's rows, and 64 columns are one block of each; in bf16 two rows are looked up at once, in one table of
// both blocks' values.
void expand_as_stored(int threads, const nt_weight *weight, bool tiles) {
  constexpr int64_t kRows = 32;  // of all columns, before the next rows: what is written stays in pieces of 8 KiB
  const int64_t out = weight->out, in = weight->in, blocks = in / kBlock;
  const int32_t stored = int32_t(weight->nf4.dtype), dtype = weight->dtype;
  const Absmax absmax(weight->nf4, out * in);
  const auto f32_row = [&](float *to, int64_t block) {
    const Values values = values_of(absmax.at(block), stored, dtype);
    const uint8_t *codes = weight->nf4.codes + block * kBlock / 2;
    for (int64_t i = 0; i < kBlock; i += kLanes) store(to + i, look_up(values, codes + i / 2));
  };
  const Places places = {static_cast<uint32_t *>(weight->scratch), dtype == NT_F32 ? out : out / 2, tiles};
  const auto bf16_rows = [&](int64_t step, int64_t column, int64_t block, int64_t next) {
    const __m512i one = narrow(values_of(absmax.at(block), stored, dtype), dtype).at;
    const __m512i two = narrow(values_of(absmax.at(next), stored, dtype), dtype).at;
    const Values16 both = {_mm512_inserti64x4(one, _mm512_castsi512_si256(two), 1)};
    const uint8_t *a = weight->nf4.codes + block * kBlock / 2, *b = weight->nf4.codes + next * kBlock / 2;
    for (int64_t i = 0; i < kBlock; i += 16) {
      // In each of 16 units: the first row's code, and the second's with 16 added.
      const __m512i first = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(a + i / 2)));
      const __m512i second = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(b + i / 2)));
      const __m512i low = _mm512_or_si512(_mm512_srli_epi64(first, 4), _mm512_slli_epi64(first, 32));
      const __m512i high = _mm512_or_si512(_mm512_slli_epi64(second, 12), _mm512_slli_epi64(second, 48));
      const __m512i codes = _mm512_and_si512(_mm512_or_si512(low, high), _mm512_set1_epi32(0x000F000F));
      const __m512i of_both = _mm512_or_si512(codes, _mm512_set1_epi32(0x00100000));
      _mm512_storeu_si512(places.at(step, column + i), _mm512_permutexvar_epi16(of_both, both.at));
    }
  };
  parallel_for(threads, (out + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kRows; first < end * kRows && first < out; first += kRows) {
      const int64_t last = first + kRows < out ? first + kRows : out;
      for (int64_t p = 0; p < blocks; p++) {
        if (dtype == NT_F32) {
          for (int64_t k = first; k < last; k++)
            f32_row(reinterpret_cast<float *>(places.at(k, p * kPanel)), k * blocks + p);
        } else {
          for (int64_t k = first; k < last; k += 2)
            bf16_rows(k / 2, p * kPanel, k * blocks + p, (k + 1) * blocks + p);
        }
      }
    }
  });
}

}  // namespace

// Blocks must not run over the ends of rows; that nothing is padded, takes_panels or amx_takes_tiles has seen.
bool nf4_makes_panels(const nt_weight *weight) { return weight->in % kBlock == 0; }

void nf4_panels(nt_context *context, const nt_weight *weight, bool transposed, bool tiles) {
  static_assert(kPanel == kBlock, "a panel is a block wide");
  if (transposed) return expand_transpose(context->threads, weight, tiles);
  expand_as_stored(context->threads, weight, tiles);
}

#else

bool nf4_makes_panels(const nt_weight *) { return false; }
void nf4_panels(nt_context *, const nt_weight *, bool, bool) {}

#endif

}  // namespace nt
