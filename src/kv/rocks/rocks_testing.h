#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "async/run_loop.h"
#include "kv/conformance_testing.h"
#include "kv/rocks/rocks_engine.h"

// What the tests of this module share.

namespace fdbnbd::kv {

// A directory that is gone at the end.
class TempDirectory {
 public:
  TempDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "fdb-nbd-rocks-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::string store() const { return path_ / "store"; }

 private:
  std::filesystem::path path_;
};

inline std::unique_ptr<Engine> open_or_fail(RocksOptions options) {
  auto engine = open_rocks_engine(options);
  EXPECT_TRUE(engine) << engine.error().what;
  return engine ? std::move(*engine) : nullptr;
}

inline Task<Result<Version>> put_rows(Executor& executor, Engine& engine, std::vector<KeyValue> rows) {
  const auto transaction = engine.begin(executor);
  for (const KeyValue& row : rows) transaction->set(row.key, row.value);
  co_return co_await transaction->commit();
}

inline Task<Result<std::optional<std::string>>> get_row(Executor& executor, Engine& engine, std::string key) {
  const auto transaction = engine.begin(executor);
  co_return co_await transaction->get(key, Isolation::snapshot);
}

}  // namespace fdbnbd::kv
