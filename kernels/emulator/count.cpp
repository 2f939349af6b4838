// With NEFTUNE_EMULATOR_COUNT=FILE: what each kernel asks of the memories, written to FILE as JSON when a context or
// the process ends. Counted are the accesses that go through gpu.h: packs, cached loads and stores, cp.async, ldmatrix.
//
// A warp's access in shared memory runs in phases (16 bytes: 8 lanes; 8: 16; 4: 32; ldmatrix: 8 rows), and a phase
// takes as many wavefronts as the fullest of the 32 banks has different words. In global memory it touches sectors of
// 32 bytes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler.h"

namespace nt::emulator {
namespace {

struct Shared {
  uint64_t phases, wavefronts;
  unsigned worst;
};

struct Kernel {
  const void *function;
  uint64_t launches, blocks, loaded, stored, sectors, ideal_sectors, products;
  double worst_sectors;  // of one access, over the ideal
  unsigned threads;      // of a block, the most of any launch, as is `dynamic_shared`
  size_t dynamic_shared;
  Shared matrix_loads, accesses;
};

// One lane's access; lanes of a warp belong together at the same instruction and the same time round.
struct Access {
  const void *site;
  const void *address;
  uint32_t round, warp, lane, bytes;
  bool store;
};

constexpr int kMaxKernels = 512;
Kernel kernels[kMaxKernels];
int kernel_count;
Kernel *running_kernel;
uint64_t block_number;

Access *accesses;  // of the running block
size_t access_count, access_room;

// How often each thread has passed each site.
struct Rounds {
  const void *site;
  uint32_t count;
  uint64_t block;  // of which it holds
};
constexpr size_t kSites = 256;
Rounds (*rounds)[kSites];  // of each thread, open addressing

uint32_t next_round(int thread, const void *site) {
  if (rounds == nullptr) rounds = static_cast<Rounds(*)[kSites]>(calloc(kMaxThreads, sizeof *rounds));
  if (rounds == nullptr) abort();
  size_t at = reinterpret_cast<uintptr_t>(site) * 0x9E3779B97F4A7C15u >> 40;
  for (size_t tries = 0; tries < kSites; tries++, at++) {
    Rounds &entry = rounds[thread][at % kSites];
    if (entry.block != block_number) entry = {site, 0, block_number};
    if (entry.site == site) return entry.count++;
  }
  fail("more than %zu places in one kernel access memory: raise kSites", kSites);
}

// Wavefronts of one phase: `count` lanes' words, `bytes` each.
unsigned wavefronts(const void *const *addresses, int count, size_t bytes) {
  uintptr_t words[32][32];  // of each bank, the different ones
  unsigned different[32] = {}, fullest = 1;
  for (int i = 0; i < count; i++) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(addresses[i]) / 4;
    for (uintptr_t word = first; word < first + (bytes + 3) / 4; word++) {
      uintptr_t *known = words[word % 32];
      unsigned &n = different[word % 32];
      unsigned at = 0;
      while (at < n && known[at] != word) at++;
      if (at < n || n == 32) continue;
      known[n++] = word;
      if (n > fullest) fullest = n;
    }
  }
  return fullest;
}

void add_phase(Shared *shared, const void *const *addresses, int count, size_t bytes) {
  const unsigned needed = wavefronts(addresses, count, bytes);
  shared->phases++;
  shared->wavefronts += needed;
  if (needed > shared->worst) shared->worst = needed;
}

void add_global(const Access *group, size_t count) {
  uintptr_t sectors[128];
  size_t different = 0, bytes = 0;
  for (size_t i = 0; i < count; i++) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(group[i].address);
    bytes += group[i].bytes;
    for (uintptr_t sector = first / 32; sector <= (first + group[i].bytes - 1) / 32; sector++) {
      bool known = false;
      for (size_t j = different; j > 0 && !known; j--) known = sectors[j - 1] == sector;
      if (!known && different < 128) sectors[different++] = sector;
    }
  }
  Kernel &kernel = *running_kernel;
  const size_t ideal = (bytes + 31) / 32;
  (group->store ? kernel.stored : kernel.loaded) += bytes;
  kernel.sectors += different;
  kernel.ideal_sectors += ideal;
  const double ratio = double(different) / double(ideal);
  if (ratio > kernel.worst_sectors) kernel.worst_sectors = ratio;
}

void add_shared(const Access *group, size_t count) {
  const unsigned lanes = group->bytes >= 16 ? 8 : group->bytes == 8 ? 16 : 32;
  for (size_t i = 0; i < count;) {
    const void *addresses[32];
    int members = 0;
    const unsigned phase = group[i].lane / lanes;
    for (; i < count && group[i].lane / lanes == phase; i++) addresses[members++] = group[i].address;
    add_phase(&running_kernel->accesses, addresses, members, group->bytes);
  }
}

bool together(const Access &a, const Access &b) {
  return a.warp == b.warp && a.site == b.site && a.round == b.round && is_shared(a.address) == is_shared(b.address);
}

int compare(const void *left, const void *right) {
  const Access &a = *static_cast<const Access *>(left), &b = *static_cast<const Access *>(right);
  if (a.warp != b.warp) return a.warp < b.warp ? -1 : 1;
  if (a.site != b.site) return a.site < b.site ? -1 : 1;
  if (a.round != b.round) return a.round < b.round ? -1 : 1;
  return a.lane < b.lane ? -1 : a.lane > b.lane ? 1 : 0;
}

void print_shared(FILE *file, const char *name, const Shared &shared) {
  const double mean = shared.phases > 0 ? double(shared.wavefronts) / double(shared.phases) : 0;
  fprintf(file, "\"%s\":{\"phases\":%llu,\"mean_conflicts\":%.4f,\"worst_conflicts\":%u}", name,
          (unsigned long long)shared.phases, mean, shared.worst);
}

__attribute__((destructor)) void write_at_exit() {
  if (counting) count_write();
}

}  // namespace

#if defined(NT_EMULATED_ASAN) || defined(NT_EMULATED_TSAN)
bool counting = false;  // it allocates memory on fibers
#else
bool counting = getenv("NEFTUNE_EMULATOR_COUNT") != nullptr;
#endif

void count_access(const void *p, size_t bytes, bool store) {
  if (access_count == access_room) {
    access_room = access_room > 0 ? 2 * access_room : 1 << 16;
    accesses = static_cast<Access *>(realloc(accesses, access_room * sizeof(Access)));
    if (accesses == nullptr) abort();
  }
  const Position &position = *current;
  const void *site = __builtin_return_address(0);
  const uint32_t round = next_round(32 * position.warp + position.lane, site);
  accesses[access_count++] = {site, p, round, uint32_t(position.warp), uint32_t(position.lane), uint32_t(bytes), store};
}

void count_matrix_load(const void *const rows[32]) {
  for (int phase = 0; phase < 4; phase++) add_phase(&running_kernel->matrix_loads, rows + 8 * phase, 8, 16);
}

void count_product() { running_kernel->products++; }

void count_begin_grid(const void *kernel, unsigned threads, size_t dynamic_shared) {
  running_kernel = nullptr;
  for (int i = 0; i < kernel_count && running_kernel == nullptr; i++)
    if (kernels[i].function == kernel) running_kernel = &kernels[i];
  if (running_kernel == nullptr) {
    if (kernel_count == kMaxKernels) abort();
    running_kernel = &kernels[kernel_count++];
    running_kernel->function = kernel;
  }
  running_kernel->launches++;
  if (threads > running_kernel->threads) running_kernel->threads = threads;
  if (dynamic_shared > running_kernel->dynamic_shared) running_kernel->dynamic_shared = dynamic_shared;
  access_count = 0;
  block_number++;
}

void count_end_block() {
  qsort(accesses, access_count, sizeof(Access), compare);
  for (size_t first = 0, end; first < access_count; first = end) {
    for (end = first + 1; end < access_count && together(accesses[first], accesses[end]);) end++;
    if (is_shared(accesses[first].address)) {
      add_shared(accesses + first, end - first);
    } else {
      add_global(accesses + first, end - first);
    }
  }
  running_kernel->blocks++;
  access_count = 0;
  block_number++;
}

void count_write() {
  FILE *file = fopen(getenv("NEFTUNE_EMULATOR_COUNT"), "w");
  if (file == nullptr) {
    perror("neftune emulator: NEFTUNE_EMULATOR_COUNT");
    return;
  }
  fprintf(file, "{\"kernels\":[");
  for (int i = 0; i < kernel_count; i++) {
    const Kernel &k = kernels[i];
    fprintf(file, "%s\n{\"name\":\"%s\",\"launches\":%llu,\"blocks\":%llu,\"loaded_bytes\":%llu,\"stored_bytes\":%llu,",
            i > 0 ? "," : "", kernel_name(k.function), (unsigned long long)k.launches, (unsigned long long)k.blocks,
            (unsigned long long)k.loaded, (unsigned long long)k.stored);
    fprintf(file, "\"threads\":%u,\"dynamic_shared_bytes\":%zu,", k.threads, k.dynamic_shared);
    fprintf(file, "\"sectors\":%llu,\"ideal_sectors\":%llu,\"worst_sector_ratio\":%.4f,\"mma\":%llu,",
            (unsigned long long)k.sectors, (unsigned long long)k.ideal_sectors, k.worst_sectors,
            (unsigned long long)k.products);
    print_shared(file, "ldmatrix", k.matrix_loads);
    fprintf(file, ",");
    print_shared(file, "shared", k.accesses);
    fprintf(file, "}");
  }
  fprintf(file, "\n]}\n");
  fclose(file);
}

}  // namespace nt::emulator
