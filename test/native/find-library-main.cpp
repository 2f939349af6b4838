// Prints the path of the library that kernels/cuda/find_library.cu finds under one of two names, then where it looked.
// usage: find-library-main FIRST SECOND WHEEL
#include "cuda/find_library.h"

int main(int count, char **arguments) {
  if (count != 4) return 2;
  const nt::WantedLibrary wanted = {
      {arguments[1], arguments[2]}, {arguments[3], nullptr}, [](void *, char *, size_t) { return true; }};
  static nt::Search search;
  nt::find_library(wanted, &search);
  printf("%s\n", search.library != nullptr ? search.path : "none");
  for (int i = 0; i < search.place_count; i++) printf("%s\n", search.places[i]);
}
