#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/store_url.h"

// How FoundationDB's client library is set up.

namespace fdbnbd::config {

struct FdbClient {
  // The path of libfdb_c.so; empty where it is looked for in the usual places.
  std::string library;
  // Network options by the names that FoundationDB gives them, in the order in which they are set; one that
  // takes no value has an empty one. Some may come several times, such as "knob".
  std::vector<std::pair<std::string, std::string>> options;

  friend bool operator==(const FdbClient&, const FdbClient&) = default;
};

// The value of an environment variable, null where it is not set: std::getenv.
using EnvironmentLookup = char* (*)(const char* name);

// What holds for `store` where the configuration file says `file`: an option of the store's URL beats the
// same one of the environment, which beats the same one of the file (knobs one by one). The environment's own
// values are not in the result: FDB_NBD_FDB_LIBRARY is read where the library is loaded, the rest
// (FDB_NETWORK_OPTION_..., FDB_TLS_...) by the library itself.
FdbClient resolve_fdb_client(const FdbClient& file, const StoreUrl& store, EnvironmentLookup environment);

}  // namespace fdbnbd::config
