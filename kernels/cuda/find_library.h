// Finds a library of NVIDIA's that is not shipped: in CUDA toolkits, Python wheels, conda, and where ldconfig knows it.
#pragma once
#include "../library_search.h"

namespace nt {

struct WantedLibrary {
  const char *names[2];   // of its file, by preference; null: no second one
  const char *wheels[2];  // folders under nvidia/ in wheels
  // Resolves what is needed of it. Else false, and `reason` completes "PATH …".
  bool (*accept)(void *library, char *reason, size_t size);
};

// Opens the first one that is accepted, by absolute path, and leaves it open: under the first name wherever it is, else
// under the second.
void find_library(const WantedLibrary &wanted, Search *search);

}  // namespace nt
