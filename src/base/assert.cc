#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace fdbnbd {

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "fdb-nbd: assertion failed: %s (%s:%d)\n", condition, file, line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace fdbnbd
