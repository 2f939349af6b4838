// Where libcublasLt is: it is too large to ship, so the one of an installed CUDA toolkit or Python wheel is opened, by
// absolute path alone. A relative path in an environment variable is passed over: nothing is ever loaded from the
// working directory.
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blas.h"
#include "cublaslt.h"

namespace nt {
namespace {

// Text that grows until the buffer is full; `length` goes on counting.
struct Text {
  char *data;
  int64_t size, length;
};

__attribute__((format(printf, 2, 3))) void add(Text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int64_t left = text->length < text->size ? text->size - text->length : 0;
  text->length += vsnprintf(left > 0 ? text->data + text->length : nullptr, size_t(left), format, arguments);
  va_end(arguments);
}

void add_json_string(Text *text, const char *value) {
  add(text, "\"");
  for (; *value != 0; value++) {
    const unsigned char c = static_cast<unsigned char>(*value);
    if (c == '"' || c == '\\') {
      add(text, "\\%c", c);
    } else if (c < 32) {
      add(text, "\\u%04x", c);
    } else {
      add(text, "%c", c);
    }
  }
  add(text, "\"");
}

// What the search found; filled once a process.
struct Search {
  CublasLt functions;
  bool found;
  char path[PATH_MAX];
  char problem[512];      // of a library that is there and cannot be used
  char places[16][200];   // looked at, in order
  int place_count;
};
Search search;
pthread_once_t searched = PTHREAD_ONCE_INIT;

#ifdef NT_EMULATED

void look_everywhere() {
  search.functions = *emulated_cublaslt();
  search.found = true;
  snprintf(search.path, sizeof search.path, "emulated");
}

#else

constexpr const char *kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
constexpr int kNewestPython = 20, kOldestPython = 8;

__attribute__((format(printf, 1, 2))) void looking_at(const char *format, ...) {
  constexpr int kPlaces = sizeof search.places / sizeof search.places[0];
  if (search.place_count == kPlaces) return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(search.places[search.place_count++], sizeof search.places[0], format, arguments);
  va_end(arguments);
}

bool open_file(const char *path) {
  if (search.found || access(path, R_OK) != 0) return search.found;
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char *reason = dlerror();
    snprintf(search.problem, sizeof search.problem, "%s", reason != nullptr ? reason : path);
    return false;
  }
  const char *missing = nullptr;
#define NT_RESOLVE(result, name, parameters)                                                              \
  search.functions.name = reinterpret_cast<result(*) parameters>(dlsym(library, "cublasLt" #name));       \
  if (search.functions.name == nullptr) missing = "cublasLt" #name;
  NT_CUBLASLT_FUNCTIONS(NT_RESOLVE)
#undef NT_RESOLVE
  if (missing != nullptr) {
    snprintf(search.problem, sizeof search.problem, "%s has no %s", path, missing);
    dlclose(library);
    return false;
  }
  search.found = true;
  search.problem[0] = 0;
  snprintf(search.path, sizeof search.path, "%s", path);
  return true;
}

__attribute__((format(printf, 1, 2))) bool open_in(const char *format, ...) {
  char directory[PATH_MAX], path[PATH_MAX + 32];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(directory, sizeof directory, format, arguments);
  va_end(arguments);
  if (length >= int(sizeof directory)) return false;
  for (const char *name : kNames) {
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (open_file(path)) return true;
  }
  return false;
}

// A toolkit's root, or the folder of libraries itself.
bool open_in_toolkit(const char *root) {
  return open_in("%s/lib64", root) || open_in("%s/lib", root) || open_in("%s/targets/x86_64-linux/lib", root) ||
         open_in("%s", root);
}

const char *absolute(const char *variable) {
  const char *value = getenv(variable);
  return value != nullptr && value[0] == '/' ? value : nullptr;
}

bool open_by_variable(const char *variable) {
  const char *root = absolute(variable);
  if (root == nullptr) {
    const char *value = getenv(variable);
    looking_at("%s (%s)", variable, value == nullptr || value[0] == 0 ? "not set" : "not an absolute path");
    return false;
  }
  looking_at("%s=%s", variable, root);
  return open_in_toolkit(root);
}

bool open_in_usr_local() {
  looking_at("/usr/local/cuda*");
  if (open_in_toolkit("/usr/local/cuda")) return true;
  char root[64];
  for (int major = 13; major >= 12; major--) {
    for (int minor = 9; minor >= 0; minor--) {
      snprintf(root, sizeof root, "/usr/local/cuda-%d.%d", major, minor);
      if (open_in_toolkit(root)) return true;
    }
  }
  return false;
}

// NVIDIA's wheels in the environment at `prefix`: nvidia-cublas for CUDA 13, nvidia-cublas-cu12 before.
bool open_in_wheels(const char *prefix) {
  looking_at("%s/lib/python3*/*-packages/nvidia/*/lib", prefix);
  for (int minor = kNewestPython; minor >= kOldestPython; minor--) {
    for (const char *packages : {"site-packages", "dist-packages"}) {
      if (open_in("%s/lib/python3.%d/%s/nvidia/cu13/lib", prefix, minor, packages) ||
          open_in("%s/lib/python3.%d/%s/nvidia/cublas/lib", prefix, minor, packages))
        return true;
    }
  }
  return false;
}

// Environments and toolkits that PATH names by their programs: an environment may be in use without being activated.
bool open_by_path() {
  const char *path = getenv("PATH");
  if (path == nullptr) return false;
  looking_at("the environments and toolkits of PATH");
  char root[PATH_MAX], program[PATH_MAX + 16];
  for (const char *begin = path, *end; *begin != 0; begin = *end != 0 ? end + 1 : end) {
    end = begin + strcspn(begin, ":");
    const int length = int(end - begin) - int(strlen("/bin"));
    if (begin[0] != '/' || length < 1 || length >= PATH_MAX || strncmp(begin + length, "/bin", 4) != 0) continue;
    snprintf(root, sizeof root, "%.*s", length, begin);
    if (strcmp(root, "/usr") == 0 || strcmp(root, "/usr/local") == 0) continue;  // have their own turn
    snprintf(program, sizeof program, "%s/bin/nvcc", root);
    if (access(program, X_OK) == 0 && open_in_toolkit(root)) return true;
    snprintf(program, sizeof program, "%s/bin/python3", root);
    if (access(program, X_OK) == 0 && open_in_wheels(root)) return true;
  }
  return false;
}

// The libraries that ldconfig knows (glibc's cache, format 1.1: a header of 48 bytes, entries of 24, offsets of strings
// from the header on; before it an older header may stand).
bool open_from_cache() {
  constexpr char kFile[] = "/etc/ld.so.cache", kMagic[] = "glibc-ld.so.cache1.1";
  constexpr size_t kHeader = 48, kEntry = 24;
  looking_at("%s", kFile);
  const int file = open(kFile, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file < 0) return false;
  const size_t size = fstat(file, &status) == 0 ? size_t(status.st_size) : 0;
  void *mapping = size > kHeader ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (mapping == MAP_FAILED) return false;
  const char *begin = static_cast<const char *>(mapping), *end = begin + size;
  const char *header = static_cast<const char *>(memmem(begin, size, kMagic, sizeof kMagic - 1));
  uint32_t count = 0;
  if (header != nullptr && size_t(end - header) > kHeader) memcpy(&count, header + 20, 4);
  const size_t cache_bytes = header != nullptr ? size_t(end - header) : 0;
  const auto text = [&](uint32_t offset) -> const char * {
    const bool inside = offset < cache_bytes && memchr(header + offset, 0, cache_bytes - offset) != nullptr;
    return inside ? header + offset : "";
  };
  for (const char *name : kNames) {
    for (uint32_t i = 0; i < count && kHeader + (size_t(i) + 1) * kEntry <= cache_bytes && !search.found; i++) {
      uint32_t key, value;
      memcpy(&key, header + kHeader + i * kEntry + 4, 4);
      memcpy(&value, header + kHeader + i * kEntry + 8, 4);
      if (strcmp(text(key), name) == 0 && text(value)[0] == '/') open_file(text(value));
    }
  }
  munmap(mapping, size);
  return search.found;
}

void look_everywhere() {
  for (const char *variable : {"NEFTUNE_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"})
    if (open_by_variable(variable)) return;
  if (open_in_usr_local()) return;
  const char *conda = absolute("CONDA_PREFIX");
  for (const char *prefix : {absolute("VIRTUAL_ENV"), conda})
    if (prefix != nullptr && open_in_wheels(prefix)) return;
  if (open_by_path()) return;
  const char *home = absolute("HOME");
  char user[PATH_MAX];
  if (home != nullptr && snprintf(user, sizeof user, "%s/.local", home) < int(sizeof user) && open_in_wheels(user))
    return;
  for (const char *prefix : {"/usr/local", "/usr"})
    if (open_in_wheels(prefix)) return;
  if (conda != nullptr) {
    looking_at("CONDA_PREFIX=%s", conda);
    if (open_in_toolkit(conda)) return;
  }
  open_from_cache();
}

#endif

}  // namespace

const CublasLt *cublaslt() {
  pthread_once(&searched, look_everywhere);
  if (search.found) return &search.functions;
  char places[600];
  Text list = {places, sizeof places, 0};
  for (int i = 0; i < search.place_count; i++) add(&list, "%s%s", i > 0 ? ", " : "", search.places[i]);
  const char *problem = search.problem;
  fail(NT_UNSUPPORTED,
       "cuBLASLt (libcublasLt.so.13 or .12) %s%s. Install the CUDA toolkit or `pip install nvidia-cublas`, and name its "
       "folder in NEFTUNE_CUDA_HOME if it is elsewhere. Looked at: %s",
       problem[0] != 0 ? "cannot be opened: " : "was not found", problem, places);
  return nullptr;
}

int64_t blas_find(char *json, int64_t size) {
  pthread_once(&searched, look_everywhere);
  Text text = {json, size, 0};
  if (search.found) {
    const int version = int(search.functions.GetVersion());
    add(&text, "{\"path\":");
    add_json_string(&text, search.path);
    add(&text, ",\"version\":\"%d.%d.%d\"", version / 10000, version / 100 % 100, version % 100);
  } else {
    add(&text, "{\"path\":null,\"version\":null,\"problem\":");
    add_json_string(&text, search.problem);
  }
  add(&text, ",\"looked\":[");
  for (int i = 0; i < search.place_count; i++) {
    if (i > 0) add(&text, ",");
    add_json_string(&text, search.places[i]);
  }
  add(&text, "]}");
  return text.length + 1;
}

}  // namespace nt
