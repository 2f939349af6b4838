// How a library that is not shipped is found: what was looked at, where it is, why it cannot be used.
#pragma once
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nt {

// Text that grows until the buffer is full; `length` goes on counting.
struct Text {
  char *data;
  int64_t size, length;
};

__attribute__((format(printf, 2, 3))) inline void add(Text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int64_t left = text->length < text->size ? text->size - text->length : 0;
  text->length += vsnprintf(left > 0 ? text->data + text->length : nullptr, size_t(left), format, arguments);
  va_end(arguments);
}

inline void add_json_string(Text *text, const char *value) {
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

// What a search found. It looks once a process.
struct Search {
  void *library;          // null: not found
  char path[PATH_MAX];    // of the library
  char problem[512];      // of one that is there and cannot be used
  char places[16][200];   // looked at, in order
  int place_count;
};

// A place that is looked at for a second name is listed once.
__attribute__((format(printf, 2, 3))) inline void looking_at(Search *search, const char *format, ...) {
  constexpr int kPlaces = sizeof search->places / sizeof search->places[0];
  if (search->place_count == kPlaces) return;
  char *place = search->places[search->place_count];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(place, sizeof search->places[0], format, arguments);
  va_end(arguments);
  for (int i = 0; i < search->place_count; i++)
    if (strcmp(search->places[i], place) == 0) return;
  search->place_count++;
}

// "A, B, C": where it looked.
inline void list_places(const Search &search, char *text, int64_t size) {
  Text list = {text, size, 0};
  add(&list, "%s", "");
  for (int i = 0; i < search.place_count; i++) add(&list, "%s%s", i > 0 ? ", " : "", search.places[i]);
}

// "path":…,"version":…,"problem":…,"looked":[…]
inline void add_search(Text *text, const Search &search, const char *version, const char *problem) {
  add(text, "\"path\":");
  if (search.library != nullptr) {
    add_json_string(text, search.path);
    add(text, ",\"version\":");
    add_json_string(text, version);
  } else {
    add(text, "null,\"version\":null");
  }
  add(text, ",\"problem\":");
  if (problem != nullptr) {
    add_json_string(text, problem);
  } else {
    add(text, "null");
  }
  add(text, ",\"looked\":[");
  for (int i = 0; i < search.place_count; i++) {
    if (i > 0) add(text, ",");
    add_json_string(text, search.places[i]);
  }
  add(text, "]");
}

// The value of a variable that is an absolute path, else null: nothing is ever loaded from the working directory.
inline const char *absolute(const char *variable) {
  const char *value = getenv(variable);
  return value != nullptr && value[0] == '/' ? value : nullptr;
}

// Calls take(path) for each library of that name that ldconfig knows, until it returns true (glibc's cache, format 1.1: a
// header of 48 bytes, entries of 24, offsets of strings from the header on; before it an older header may stand).
template <class Take>
bool in_loader_cache(const char *name, const Take &take) {
  constexpr char kFile[] = "/etc/ld.so.cache", kMagic[] = "glibc-ld.so.cache1.1";
  constexpr size_t kHeader = 48, kEntry = 24;
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
  bool taken = false;
  for (uint32_t i = 0; i < count && kHeader + (size_t(i) + 1) * kEntry <= cache_bytes && !taken; i++) {
    uint32_t key, value;
    memcpy(&key, header + kHeader + i * kEntry + 4, 4);
    memcpy(&value, header + kHeader + i * kEntry + 8, 4);
    if (strcmp(text(key), name) == 0 && text(value)[0] == '/') taken = take(text(value));
  }
  munmap(mapping, size);
  return taken;
}

}  // namespace nt
