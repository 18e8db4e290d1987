#pragma once

#include "base/result.h"

namespace fdbnbd::cli {

// What the program exits with; part of its interface.
enum class ExitStatus : int {
  done = 0,
  failed = 1,
  usage = 2,
  not_found = 3,
  exists = 4,
  busy = 5,
  fenced = 6,
  unreachable = 7,
  no_space = 8,
  corruption = 9,
  differs = 10,
};

ExitStatus exit_status(Errc code);

}  // namespace fdbnbd::cli
