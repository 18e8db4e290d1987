#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kv/fdb/abi.h"

namespace fdbnbd::kv::fdb {

// The functions of a libfdb_c.so, loaded into this process for good (the library cannot be unloaded). Plain
// pointers: copy it freely, use it from any thread.
struct Api {
#define FDBNBD_FDB_POINTER(name, result, parameters) result(*name) parameters = nullptr;
  FDBNBD_FDB_REQUIRED_FUNCTIONS(FDBNBD_FDB_POINTER)
  FDBNBD_FDB_OPTIONAL_FUNCTIONS(FDBNBD_FDB_POINTER)
#undef FDBNBD_FDB_POINTER

  std::string library;  // the name that was loaded
  int version = 0;      // the API version to select: at most kMaxApiVersion
};

// Where the library is looked for: `path` alone where it is not empty, else the environment variable
// FDB_NBD_FDB_LIBRARY alone where that is set, else the places where its packages put it.
std::vector<std::string> library_candidates(std::string_view path);

// Loads the first of `candidates` that is there. Nothing of the library has been called but what tells its
// version. Errc::unavailable, in one line that says what was tried and what to install: no such library, not
// FoundationDB's, or older than kMinApiVersion.
Result<Api> load_api(const std::vector<std::string>& candidates);

}  // namespace fdbnbd::kv::fdb
