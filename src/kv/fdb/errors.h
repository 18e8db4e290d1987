#pragma once

#include <string_view>

#include "base/result.h"
#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"

namespace fdbnbd::kv::fdb {

// What was asked of FoundationDB when it failed: the same number may mean less for a read, which changes
// nothing, than for a commit.
enum class Operation { read, commit };

// What to do before the next attempt.
enum class Remedy {
  none,              // another attempt would fail alike
  new_read_version,  // at once, with a fresh read version
  short_wait,        // the storage servers lag behind, or it is over in a moment
  long_wait,         // the cluster is at a limit, or locked
  check_fence,       // the fence tells whether the conflict was real
  retry_under_lock,  // decided by now: it has happened or never will
  barrier,           // it may still happen later
};

struct Meaning {
  Errc code;
  Remedy remedy;

  friend bool operator==(const Meaning&, const Meaning&) = default;
};

// What error `error` (not 0) of FoundationDB means. Total: numbers that are not known are io for reads, and
// for commits unknown_result unless they are the library's refusal of a call (2000 to 2999).
Meaning meaning_of(fdb_error_t error, Operation operation);

// The error of a failed call: `doing` says what was tried, on which object.
Error error_of(const Api& api, fdb_error_t error, Operation operation, std::string_view doing);

}  // namespace fdbnbd::kv::fdb
