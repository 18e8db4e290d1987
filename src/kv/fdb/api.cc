#include "kv/fdb/api.h"

#include <dlfcn.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

namespace fdbnbd::kv::fdb {

namespace {

constexpr const char* kLibraryVariable = "FDB_NBD_FDB_LIBRARY";
constexpr std::string_view kAdvice =
    "install the package foundationdb-clients (7.1 or newer), or set FDB_NBD_FDB_LIBRARY to its libfdb_c.so";

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

}  // namespace

std::vector<std::string> library_candidates(std::string_view path) {
  if (!path.empty()) return {std::string(path)};
  if (const char* from_environment = ::secure_getenv(kLibraryVariable);
      from_environment != nullptr && *from_environment != '\0')
    return {from_environment};
  return {"libfdb_c.so", "/usr/lib/libfdb_c.so", "/usr/lib64/libfdb_c.so", "/usr/local/lib/libfdb_c.so"};
}

Result<Api> load_api(const std::vector<std::string>& candidates) {
  void* library = nullptr;
  Api api;
  std::string reason;
  for (const std::string& candidate : candidates) {
    library = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) {
      api.library = candidate;
      break;
    }
    // Of several the first message is the one that matters: the others are fallbacks.
    if (const char* message = ::dlerror(); message != nullptr && reason.empty()) reason = message;
  }
  if (library == nullptr) {
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    return fail(Errc::unavailable,
                fmt::format("FoundationDB's client library cannot be loaded (tried {}: {}): {}",
                            fmt::join(candidates, ", "), reason, kAdvice));
  }

  const char* missing = nullptr;
#define FDBNBD_FDB_FIND(name, result, parameters) \
  if (!find(library, "fdb_" #name, api.name) && missing == nullptr) missing = "fdb_" #name;
  FDBNBD_FDB_REQUIRED_FUNCTIONS(FDBNBD_FDB_FIND)
#undef FDBNBD_FDB_FIND
#define FDBNBD_FDB_FIND(name, result, parameters) find(library, "fdb_" #name, api.name);
  FDBNBD_FDB_OPTIONAL_FUNCTIONS(FDBNBD_FDB_FIND)
#undef FDBNBD_FDB_FIND
  if (missing != nullptr) {
    return fail(Errc::unavailable,
                fmt::format("{} is not a client library of FoundationDB that can be used (it has no {}): {}",
                            api.library, missing, kAdvice));
  }
  const int newest = api.get_max_api_version();
  if (newest < kMinApiVersion) {
    return fail(Errc::unavailable, fmt::format("{} is too old (API version {}, at least {} is needed): {}",
                                               api.library, newest, kMinApiVersion, kAdvice));
  }
  api.version = std::min(newest, kMaxApiVersion);
  return api;
}

}  // namespace fdbnbd::kv::fdb
