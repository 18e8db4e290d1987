#include "legacy/directory.h"

#include <utility>

#include "legacy/rows.h"
#include "legacy/tuple.h"

namespace fdbnbd::legacy {

namespace {

constexpr int64_t kSubdirectories = 0;

}  // namespace

std::string entries_prefix(std::string_view directory) {
  std::string key(kRootDirectory);
  append_bytes(key, directory);
  append_integer(key, kSubdirectories);
  return key;
}

Task<Result<std::optional<std::string>>> find_directory(kv::Engine& engine, Executor& executor,
                                                        std::string parent, std::string name) {
  std::string key = entries_prefix(parent);
  append_text(key, name);
  co_return co_await get_row(engine, executor, key);
}

Task<Result<std::optional<std::string>>> find_directory(kv::Engine& engine, Executor& executor,
                                                        std::vector<std::string> path) {
  std::optional<std::string> prefix{kRootDirectory};
  for (std::string& name : path) {
    ASSIGN_OR_CO_RETURN(prefix,
                        co_await find_directory(engine, executor, std::move(*prefix), std::move(name)));
    if (!prefix) break;
  }
  co_return prefix;
}

}  // namespace fdbnbd::legacy
