#pragma once

#include <array>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/random.h"
#include "kv/memory/memory_disk.h"
#include "kv/memory/memory_engine.h"

namespace fdbnbd::kv {

// The fault plan of one engine, and its answers to the engine.
class MemoryFaults final : public FaultPlan {
 public:
  MemoryFaults(MemoryDisk& disk, uint64_t seed) : disk_(disk), random_(seed) {}

  void fail_next_commits(CommitFault fault, uint32_t count) override;
  void fail_commits_randomly(CommitFault fault, uint32_t per_million) override;
  void release_late_commits() override { disk_.release_late_commits(); }
  void fail_next_sync() override;
  void set_full(bool full) override;
  void set_unreadable(std::string_view key, bool unreadable) override;
  void set_unavailable(bool unavailable) override;
  void set_latency(Duration min, Duration max) override;

  std::optional<CommitFault> take_commit_fault();
  bool take_sync_fault();
  bool full() const;
  bool unavailable() const;
  bool is_unreadable(std::string_view key) const;
  Duration draw_latency();
  uint64_t draw(uint64_t bound);

 private:
  static constexpr size_t kFaultsCount = static_cast<size_t>(CommitFault::unknown_applied_late) + 1;

  MemoryDisk& disk_;
  mutable std::mutex mutex_;
  // All of the following guarded by mutex_.
  Random random_;
  std::deque<CommitFault> next_faults_;
  std::array<uint32_t, kFaultsCount> per_million_{};
  bool fail_sync_ = false;
  bool full_ = false;
  bool unavailable_ = false;
  std::set<std::string, std::less<>> unreadable_;
  Duration min_latency_{};
  Duration max_latency_{};
};

}  // namespace fdbnbd::kv
