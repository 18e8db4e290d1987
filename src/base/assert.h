#pragma once

// Assertions for what cannot happen. They stay on in release: a crash is better than a corrupt volume.
// Never use them on data that came from a client, a disk or a peer.

namespace fdbnbd {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);
}

#define ASSERT(condition)                                         \
  do {                                                            \
    if (!(condition)) [[unlikely]]                                \
      ::fdbnbd::assertion_failed(#condition, __FILE__, __LINE__); \
  } while (false)
