// Where MPI is: NEFTUNE_MPI, or beside the launcher that started this process, or beside mpirun, or where ldconfig
// knows it. Absolute paths alone.
#include "mpi.h"

#include <dlfcn.h>

#include <initializer_list>

#include "../check.h"

namespace nt {
namespace {

// MPICH and Intel MPI, Open MPI, Debian's MPICH, the standard ABI.
constexpr const char *kNames[] = {"libmpi.so.12", "libmpi.so.40", "libmpich.so.12",
                                  "libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi.so"};
constexpr const char *kFolders[] = {"lib", "lib64", "lib/release", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"};
constexpr int kMostAncestors = 8;

Search search;
bool searched;
Mpi functions;

template <class T>
bool resolve(void *library, const char *name, T *function) {
  *function = reinterpret_cast<T>(dlsym(library, name));
  if (*function != nullptr) return true;
  snprintf(search.problem, sizeof search.problem, "it has no %s", name);
  return false;
}

bool resolve_all(void *library) {
#define NT_RESOLVE(name, parameters) \
  if (!resolve(library, "MPI_" #name, &functions.name)) return false;
  NT_MPI_FUNCTIONS(NT_RESOLVE)
#undef NT_RESOLVE
  return true;
}

// The library's own names for what is passed to it.
void set_handles(void *library, const char *path) {
  const auto object = [library](const char *name) { return MpiHandle(uintptr_t(dlsym(library, name))); };
  const char *slash = strrchr(path, '/');
  if (strstr(slash != nullptr ? slash : path, "libmpi_abi") != nullptr) {
    functions.world = 0x101, functions.byte = 0x247, functions.errors_return = 0x143;
  } else if (object("ompi_mpi_comm_world") != 0) {
    functions.is_open_mpi = true;
    functions.world = object("ompi_mpi_comm_world"), functions.byte = object("ompi_mpi_byte");
    functions.errors_return = object("ompi_mpi_errors_return");
  } else {
    functions.world = 0x44000000, functions.byte = 0x4c00010d, functions.errors_return = 0x54000001;
  }
}

bool open_file(const char *path) {
  if (search.library != nullptr || access(path, R_OK) != 0) return search.library != nullptr;
  // Open MPI's plugins look for its functions among the global ones.
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char *reason = dlerror();
    snprintf(search.problem, sizeof search.problem, "%s", reason != nullptr ? reason : path);
    return false;
  }
  if (!resolve_all(library)) return false;
  char real[PATH_MAX];
  set_handles(library, realpath(path, real) != nullptr ? real : path);
  search.library = library;
  search.problem[0] = 0;
  snprintf(search.path, sizeof search.path, "%s", path);
  char text[8192] = "";
  int length = 0;
  functions.Get_library_version(text, &length);
  text[strcspn(text, "\n,")] = 0;
  // MPICH aligns its number with tabs and blanks.
  char *end = functions.version;
  for (const char *c = text; *c != 0 && end < functions.version + sizeof functions.version - 1; c++)
    if ((*c != ' ' && *c != '\t') || (c[1] != ' ' && c[1] != '\t')) *end++ = *c == '\t' ? ' ' : *c;
  *end = 0;
  return true;
}

bool open_in(const char *folder) {
  char path[PATH_MAX + 32];
  // Where several kinds lie side by side, the launcher's goes first.
  const bool is_open_mpi = getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  if (is_open_mpi && snprintf(path, sizeof path, "%s/libmpi.so.40", folder) > 0 && open_file(path)) return true;
  for (const char *name : kNames)
    if (snprintf(path, sizeof path, "%s/%s", folder, name) > 0 && open_file(path)) return true;
  return false;
}

// An installation's root, or the folder of its libraries.
bool open_in_prefix(const char *prefix) {
  char folder[PATH_MAX];
  for (const char *each : kFolders)
    if (snprintf(folder, sizeof folder, "%s/%s", prefix, each) < int(sizeof folder) && open_in(folder)) return true;
  return open_in(prefix);
}

// The installation whose bin/ holds a program.
bool open_beside(const char *program) {
  char real[PATH_MAX];
  if (realpath(program, real) == nullptr) return false;
  char *bin = strstr(real, "/bin/");
  for (char *next = bin; next != nullptr; next = strstr(next + 1, "/bin/")) bin = next;
  if (bin == nullptr) return false;
  *bin = 0;
  return open_in_prefix(real);
}

int64_t parent_of(int64_t process) {
  char path[64], text[512] = "";
  snprintf(path, sizeof path, "/proc/%lld/stat", (long long)process);
  FILE *file = fopen(path, "r");
  if (file == nullptr) return 0;
  const size_t length = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[length] = 0;
  const char *after_name = strrchr(text, ')');
  long long parent = 0;
  return after_name != nullptr && sscanf(after_name + 1, " %*c %lld", &parent) == 1 ? int64_t(parent) : 0;
}

// Programs of MPI implementations that start ranks.
bool starts_ranks(const char *program) {
  const char *slash = strrchr(program, '/');
  const char *name = slash != nullptr ? slash + 1 : program;
  for (const char *known : {"hydra", "mpiexec", "mpirun", "orte", "prte", "prun"})
    if (strncmp(name, known, strlen(known)) == 0) return true;
  return false;
}

bool open_beside_launcher() {
  looking_at(&search, "the launcher among this process's parents");
  int64_t process = getppid();
  for (int i = 0; i < kMostAncestors && process > 1; i++, process = parent_of(process)) {
    char link[64], program[PATH_MAX];
    snprintf(link, sizeof link, "/proc/%lld/exe", (long long)process);
    const ssize_t length = readlink(link, program, sizeof program - 1);
    if (length <= 0) continue;
    program[length] = 0;
    if (starts_ranks(program) && open_beside(program)) return true;
  }
  return false;
}

bool open_by_path() {
  const char *path = getenv("PATH");
  if (path == nullptr) return false;
  looking_at(&search, "the installation of mpirun or mpiexec on the PATH");
  char program[PATH_MAX];
  for (const char *begin = path, *end; *begin != 0; begin = *end != 0 ? end + 1 : end) {
    end = begin + strcspn(begin, ":");
    if (begin[0] != '/') continue;
    for (const char *name : {"mpirun", "mpiexec"})
      if (snprintf(program, sizeof program, "%.*s/%s", int(end - begin), begin, name) < int(sizeof program) &&
          access(program, X_OK) == 0 && open_beside(program))
        return true;
  }
  return false;
}

bool open_by_variable() {
  const char *value = getenv("NEFTUNE_MPI"), *given = absolute("NEFTUNE_MPI");
  looking_at(&search, given != nullptr ? "NEFTUNE_MPI=%s" : "NEFTUNE_MPI (%s)",
             given != nullptr ? given
             : value == nullptr || value[0] == 0 ? "not set" : "not an absolute path");
  if (given == nullptr) return false;
  struct stat status;
  if (stat(given, &status) == 0 && S_ISREG(status.st_mode)) return open_file(given);
  return open_in_prefix(given);
}

void look_everywhere() {
  // Whoever names a library means that one.
  const char *named = getenv("NEFTUNE_MPI");
  if (open_by_variable() || (named != nullptr && named[0] != 0)) return;
  if (open_beside_launcher() || open_by_path()) return;
  looking_at(&search, "/etc/ld.so.cache");
  for (const char *name : kNames)
    if (in_loader_cache(name, open_file)) return;
}

}  // namespace

const Search &mpi_search() {
  if (!searched) look_everywhere();
  searched = true;
  return search;
}

const Mpi *mpi() {
  if (mpi_search().library != nullptr) return &functions;
  char places[1200];
  list_places(search, places, sizeof places);
  fail(NT_UNSUPPORTED,
       "MPI (libmpi.so) %s%s. Install MPICH or Open MPI, start the ranks with its mpirun, or name its library or folder "
       "in NEFTUNE_MPI. Looked at: %s",
       search.problem[0] != 0 ? "cannot be used: " : "was not found", search.problem, places);
  return nullptr;
}

int mpi_finalize() {
  const int status = functions.Finalize();
  // MPICH tells its launcher of the end in a destructor, which does not run where the process ends without exit(): the
  // launcher would then kill the ranks that are still on their way out.
  if (status == 0 && !functions.is_open_mpi && search.library != nullptr) dlclose(search.library);
  search.library = nullptr;
  return status;
}

}  // namespace nt
