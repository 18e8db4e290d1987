#include "kv/rocks/rocks_engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>

#include "kv/conformance_testing.h"

namespace fdbnbd::kv {
namespace {

namespace fs = std::filesystem;

// A directory that is gone at the end.
class TempDirectory {
 public:
  TempDirectory() {
    std::string name = (fs::temp_directory_path() / "fdb-nbd-rocks-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  TempDirectory(TempDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~TempDirectory() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// An engine in a directory of its own.
class TemporaryEngine final : public Engine {
 public:
  TemporaryEngine() {
    auto engine = open_rocks_engine({.path = directory_.path() / "store"});
    EXPECT_TRUE(engine) << engine.error().what;
    engine_ = std::move(*engine);
  }
  std::string_view name() const override { return engine_->name(); }
  Capabilities capabilities() const override { return engine_->capabilities(); }
  EngineStats stats() const override { return engine_->stats(); }
  std::unique_ptr<Transaction> begin(Executor& executor) override { return engine_->begin(executor); }
  Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) override {
    return engine_->read(executor, request, sink);
  }
  Task<Result<void>> sync(Executor& executor) override { return engine_->sync(executor); }

 private:
  TempDirectory directory_;
  std::unique_ptr<Engine> engine_;
};

std::unique_ptr<Engine> open_for_conformance(uint64_t) {
  return std::make_unique<TemporaryEngine>();
}

INSTANTIATE_TEST_SUITE_P(Rocks, EngineConformance,
                         testing::Values(ConformanceSubject{"RocksDB", open_for_conformance, false}),
                         conformance_subject_name);

}  // namespace
}  // namespace fdbnbd::kv
