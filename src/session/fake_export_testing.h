#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/executor.h"
#include "base/random.h"
#include "block/export.h"

// An Export over a byte vector, for tests of sessions.

namespace fdbnbd::session {

class FakeExport final : public block::Export {
 public:
  struct Options {
    std::string name = "fake";
    uint64_t size_bytes = 1 << 20;
    bool read_only = false;
    // Blocks of this size that are all zero read as holes; 0: no holes.
    uint32_t hole_block_bytes = 4096;
    // Where given, every operation takes effect after a random delay up to `delay_max`; they end in any
    // order.
    Random* random = nullptr;
    Duration delay_max{};
  };

  FakeExport(Executor& executor, Options options);
  ~FakeExport() override;

  // Called before an operation takes effect ("read", "write", ...); an error is its result.
  std::function<std::optional<Error>(const std::string& operation, uint64_t offset_bytes,
                                     uint64_t length_bytes)>
      on_operation;
  // While true, operations wait.
  void hold();
  void let_go();
  // Operations that have begun and not ended.
  size_t running_count() const { return running_count_; }
  // How many have ended, by name.
  std::map<std::string, size_t> ended_counts;

  std::vector<std::byte>& bytes() { return bytes_; }
  void resize(uint64_t size_bytes) { bytes_.resize(size_bytes); }

  Executor& executor() override { return executor_; }
  block::ExportInfo info() const override;
  uint64_t size_bytes() const override { return bytes_.size(); }
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) override;
  Task<Result<void>> write(uint64_t offset_bytes, ByteView data, block::WriteOptions options) override;
  Task<Result<void>> flush() override;
  Task<Result<void>> trim(uint64_t offset_bytes, uint64_t length_bytes, block::WriteOptions options) override;
  Task<Result<void>> write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                  block::ZeroOptions options) override;
  Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) override;
  Task<Result<std::vector<block::StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                              uint32_t extents_limit) override;

 private:
  // The delay and the error of an operation.
  Task<Result<void>> begin(const char* operation, uint64_t offset_bytes, uint64_t length_bytes);
  Result<void> end(const char* operation);
  void zero(uint64_t offset_bytes, uint64_t length_bytes);
  bool immediate() const { return !held_ && options_.random == nullptr && !on_operation; }
  // Runs of data and holes.
  std::vector<block::ReadSegment> map(uint64_t offset_bytes, uint64_t length_bytes) const;

  Executor& executor_;
  const Options options_;
  std::vector<std::byte> bytes_;
  bool held_ = false;
  std::vector<std::coroutine_handle<>> waiting_;
  size_t running_count_ = 0;
};

// A registry of fakes, by name.
class FakeRegistry final : public block::ExportRegistry {
 public:
  void add(std::shared_ptr<FakeExport> exported) { exports_[exported->info().name] = std::move(exported); }
  // Calls wait on the executor for so long.
  Duration delay{};

  Task<Result<std::vector<block::ExportListing>>> list(Executor& executor) override;
  Task<Result<std::shared_ptr<block::Export>>> open(Executor& executor, std::string name) override;
  Task<Result<block::ExportInfo>> describe(Executor& executor, std::string name) override;

 private:
  std::shared_ptr<FakeExport> find(const std::string& name) const;

  std::map<std::string, std::shared_ptr<FakeExport>> exports_;
};

}  // namespace fdbnbd::session
