#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "kv/engine.h"

// The store in memory: the reference model of every engine, the store behind `memory:`, and the store of
// simulated worlds. It keeps several versions of each row, checks conflicts as FoundationDB does, and can be
// told to fail.

namespace fdbnbd::kv {

// What an engine leaves behind when it is gone: the rows. Tests keep it to open a new engine over it after a
// crash, or several at once (several hosts on one cluster). Any thread.
class MemoryDisk;
std::shared_ptr<MemoryDisk> make_memory_disk();

struct MemoryOptions {
  // Null: a new, empty one.
  std::shared_ptr<MemoryDisk> disk = nullptr;

  // How far back reads and conflicts reach: a read version that is further behind the newest one is too old.
  Version read_window_versions = 1'000'000;
  // The window shrinks when the replaced values that it keeps exceed this.
  uint64_t history_bytes = limits::kMemoryHistoryBytes;
  // Commits that would store more fail with Errc::no_space; 0: no bound.
  uint64_t capacity_bytes = 0;

  // Every call suspends at least once and lets the executor run something else before it acts, and again
  // before it returns, so that a simulated loop picks the order. Without it calls that need not wait return
  // at once.
  bool always_suspend = true;
  // For the delays and choices below.
  uint64_t seed = 0;

  // Whether a crash may lose commits that were not synced. Costs memory: what was not synced can be undone.
  bool can_lose_power = false;

  // What capabilities() says. With shared_between_hosts several engines may have the disk open at once.
  Capabilities capabilities = {.commits_in_flight = 4};
};

// How a commit fails.
enum class CommitFault : uint8_t {
  conflict,
  unavailable,
  no_space,
  io,
  unknown_applied,      // unknown_result, and it happened
  unknown_not_applied,  // unknown_result, and it never will happen
  // unknown_result, and it happens after a few more commits of others, or at release_late_commits(); like any
  // commit it fails then if its read conflicts changed.
  unknown_applied_late,
};

// What goes wrong in one engine, set by tests. Any thread.
class FaultPlan {
 public:
  virtual ~FaultPlan() = default;

  // The next `count` commits that change something, behind those of earlier calls.
  virtual void fail_next_commits(CommitFault fault, uint32_t count = 1) = 0;
  // Each later commit that is not covered by fail_next_commits fails in this way with a probability of
  // `per_million`; 0 turns it off. One probability for each fault.
  virtual void fail_commits_randomly(CommitFault fault, uint32_t per_million) = 0;
  // Commits that were given unknown_applied_late and wait: they happen now, in any order.
  virtual void release_late_commits() = 0;

  // The next sync fails; by the contract of Engine all later commits and syncs fail too.
  virtual void fail_next_sync() = 0;
  // While on, commits that store something fail with no_space.
  virtual void set_full(bool full) = 0;
  // The row of this key cannot be read, whatever is stored there, until it is made readable again.
  virtual void set_unreadable(std::string_view key, bool unreadable) = 0;
  // While on, every read, read version and commit fails with unavailable.
  virtual void set_unavailable(bool unavailable) = 0;

  // Each call takes a time drawn from [min, max], by the executor's timers; half of it before the call acts.
  virtual void set_latency(Duration min, Duration max) = 0;
};

struct Crash {
  // The process alone dies: every commit survives. With power loss the disk keeps any prefix of the commits
  // that is no shorter than the last sync. Only where MemoryOptions::can_lose_power was set.
  bool power_loss = false;
  // How many of the commits that were not synced survive a power loss; drawn by the seed where not given.
  std::optional<size_t> unsynced_commits_kept = {};
};

class MemoryEngine : public Engine {
 public:
  virtual FaultPlan& faults() = 0;

  // Commits that a power loss could take.
  virtual size_t unsynced_commits_count() const = 0;

  // From here on every call, including those that wait, fails with Errc::io and changes nothing, and the disk
  // can be opened anew.
  virtual void crash(Crash kind) = 0;
};

// Errc::busy where another engine has the disk open.
Result<std::unique_ptr<MemoryEngine>> open_memory_engine(MemoryOptions options = {});

}  // namespace fdbnbd::kv
