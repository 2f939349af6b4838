// libcublasLt, which is too large to ship: the one of an installed CUDA toolkit or Python wheel is opened.
#include <dlfcn.h>
#include <pthread.h>

#include "blas.h"
#include "cublaslt.h"
#include "find_library.h"

namespace nt {
namespace {

// Filled once a process.
CublasLt functions;
Search search;
pthread_once_t searched = PTHREAD_ONCE_INIT;

#ifdef NT_EMULATED

void look_everywhere() {
  functions = *emulated_cublaslt();
  search.library = &functions;
  snprintf(search.path, sizeof search.path, "emulated");
}

#else

bool resolve(void *library, char *reason, size_t size) {
  const char *missing = nullptr;
#define NT_RESOLVE(result, name, parameters)                                                \
  functions.name = reinterpret_cast<result(*) parameters>(dlsym(library, "cublasLt" #name)); \
  if (functions.name == nullptr) missing = "cublasLt" #name;
  NT_CUBLASLT_FUNCTIONS(NT_RESOLVE)
#undef NT_RESOLVE
  if (missing != nullptr) snprintf(reason, size, "has no %s", missing);
  return missing == nullptr;
}

// The wheels: nvidia-cublas for CUDA 13, nvidia-cublas-cu12 before.
void look_everywhere() {
  find_library({{"libcublasLt.so.13", "libcublasLt.so.12"}, {"cu13", "cublas"}, resolve}, &search);
}

#endif

}  // namespace

const CublasLt *cublaslt() {
  pthread_once(&searched, look_everywhere);
  if (search.library != nullptr) return &functions;
  char places[600];
  list_places(search, places, sizeof places);
  const char *problem = search.problem;
  fail(NT_UNSUPPORTED,
       "cuBLASLt (libcublasLt.so.13 or .12) %s%s. Install the CUDA toolkit or `pip install nvidia-cublas`, and name its "
       "folder in NEFTUNE_CUDA_HOME if it is elsewhere. Looked at: %s",
       problem[0] != 0 ? "cannot be opened: " : "was not found", problem, places);
  return nullptr;
}

int64_t blas_find(char *json, int64_t size) {
  pthread_once(&searched, look_everywhere);
  char version[32] = "";
  if (search.library != nullptr) {
    const int number = int(functions.GetVersion());
    snprintf(version, sizeof version, "%d.%d.%d", number / 10000, number / 100 % 100, number % 100);
  }
  Text text = {json, size, 0};
  add(&text, "{");
  add_search(&text, search, version, search.library != nullptr ? nullptr : search.problem);
  add(&text, "}");
  return text.length + 1;
}

}  // namespace nt
