#pragma once

#include <memory>

#include "kv/engine.h"

namespace fdbnbd::kv {

// An engine whose transactions hide what a caller would have to try again: reads that are unavailable,
// commits that did not happen, conflicts that another attempt at the same read version does not meet, and
// unknown results, which are decided, the version of the commit included. A transaction that takes too long
// for that conflicts. For tests that say what an engine must do, on one that fails at random.
//
// Rows from "\xfe" on are its own: no transaction sees or changes them.
std::unique_ptr<Engine> make_retrying_engine(std::unique_ptr<Engine> engine);

}  // namespace fdbnbd::kv
