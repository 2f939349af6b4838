// Opens libraries of an installed CUDA toolkit or Python wheel, too large to ship, by absolute path alone. A relative
// path in an environment variable is passed over: nothing is ever loaded from the working directory.
#include "find_library.h"

#include <dlfcn.h>

#include <initializer_list>

namespace nt {
namespace {

constexpr int kNewestPython = 20, kOldestPython = 8;

// One search: for what, and what it has found.
struct Finder {
  const WantedLibrary &wanted;
  const char *name;  // of the library's file
  Search *search;

  bool found() const { return search->library != nullptr; }
  bool open_file(const char *path);
  bool open_in(const char *format, ...) __attribute__((format(printf, 2, 3)));
  bool open_in_toolkit(const char *root);
  bool open_by_variable(const char *variable);
  bool open_in_usr_local();
  bool open_in_wheels(const char *prefix);
  bool open_by_path();
  bool open_from_cache();
  void look_everywhere();
};

bool Finder::open_file(const char *path) {
  if (found() || access(path, R_OK) != 0) return found();
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char *reason = dlerror();
    snprintf(search->problem, sizeof search->problem, "%s", reason != nullptr ? reason : path);
    return false;
  }
  char reason[200] = "";
  if (!wanted.accept(library, reason, sizeof reason)) {
    snprintf(search->problem, sizeof search->problem, "%s %s", path, reason);
    dlclose(library);
    return false;
  }
  search->library = library;
  search->problem[0] = 0;
  snprintf(search->path, sizeof search->path, "%s", path);
  return true;
}

bool Finder::open_in(const char *format, ...) {
  char directory[PATH_MAX], path[PATH_MAX + 32];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(directory, sizeof directory, format, arguments);
  va_end(arguments);
  if (length >= int(sizeof directory)) return false;
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return open_file(path);
}

// What a toolkit calls this platform.
#ifdef __aarch64__
#define NT_TARGET "sbsa-linux"
#else
#define NT_TARGET "x86_64-linux"
#endif

// A toolkit's root, or the folder of libraries itself.
bool Finder::open_in_toolkit(const char *root) {
  return open_in("%s/lib64", root) || open_in("%s/lib", root) || open_in("%s/targets/" NT_TARGET "/lib", root) ||
         open_in("%s", root);
}

bool Finder::open_by_variable(const char *variable) {
  const char *root = absolute(variable);
  if (root == nullptr) {
    const char *value = getenv(variable);
    looking_at(search, "%s (%s)", variable, value == nullptr || value[0] == 0 ? "not set" : "not an absolute path");
    return false;
  }
  looking_at(search, "%s=%s", variable, root);
  return open_in_toolkit(root);
}

bool Finder::open_in_usr_local() {
  looking_at(search, "/usr/local/cuda*");
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

// NVIDIA's wheels in the environment at `prefix`.
bool Finder::open_in_wheels(const char *prefix) {
  looking_at(search, "%s/lib/python3*/*-packages/nvidia/*/lib", prefix);
  for (int minor = kNewestPython; minor >= kOldestPython; minor--) {
    for (const char *packages : {"site-packages", "dist-packages"}) {
      for (const char *wheel : wanted.wheels)
        if (wheel != nullptr && open_in("%s/lib/python3.%d/%s/nvidia/%s/lib", prefix, minor, packages, wheel)) return true;
    }
  }
  return false;
}

// Environments and toolkits that PATH names by their programs: an environment may be in use without being activated.
bool Finder::open_by_path() {
  const char *path = getenv("PATH");
  if (path == nullptr) return false;
  looking_at(search, "the environments and toolkits of PATH");
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

bool Finder::open_from_cache() {
  looking_at(search, "/etc/ld.so.cache");
  return in_loader_cache(name, [this](const char *path) { return open_file(path); });
}

void Finder::look_everywhere() {
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
    looking_at(search, "CONDA_PREFIX=%s", conda);
    if (open_in_toolkit(conda)) return;
  }
  open_from_cache();
}

}  // namespace

// The preferred name everywhere before the next one: an old toolkit that a variable names must not win over a newer wheel.
void find_library(const WantedLibrary &wanted, Search *search) {
  for (const char *name : wanted.names)
    if (name != nullptr && search->library == nullptr) Finder{wanted, name, search}.look_everywhere();
}

}  // namespace nt
