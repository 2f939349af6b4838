// Files mapped read-only into host memory, the same for every backend.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

namespace nt {

inline int32_t map_file(const char *path, void **address, int64_t *bytes) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(NT_IO, "%s: %s", path, strerror(errno));
  struct stat info;
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) {
    close(file);
    return fail(NT_IO, "%s: empty, or not a file", path);
  }
  void *mapped = mmap(nullptr, size_t(info.st_size), PROT_READ, MAP_SHARED, file, 0);
  int error = errno;
  close(file);
  if (mapped == MAP_FAILED) return fail(NT_IO, "%s: cannot be mapped: %s", path, strerror(error));
  *address = mapped;
  *bytes = info.st_size;
  return NT_OK;
}

inline int32_t unmap_file(void *address, int64_t bytes) {
  if (munmap(address, size_t(bytes)) != 0) return fail(NT_IO, "munmap: %s", strerror(errno));
  return NT_OK;
}

inline int32_t forget_file(const void *address, int64_t bytes) {
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = uintptr_t(address) / page * page;
  const uintptr_t end = uintptr_t(address) + uintptr_t(bytes);
  if (bytes > 0 && madvise(reinterpret_cast<void *>(begin), size_t(end - begin), MADV_DONTNEED) != 0)
    return fail(NT_IO, "madvise: %s", strerror(errno));
  return NT_OK;
}

}  // namespace nt
