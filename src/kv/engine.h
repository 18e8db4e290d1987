#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/result.h"

// What a volume needs of a store: ordered keys, transactions, bulk reads and a durability point. It is
// FoundationDB's model (research in docs/architecture.md); the embedded engines implement the same one. Keys
// and values are bytes.
//
// Threads: an Engine is used from any thread. A Transaction belongs to one coroutine. Every Task continues on
// the executor that was given to begin(), read() or sync(), which is the caller's.

namespace fdbnbd::kv {

// A point in the order of all commits of one engine. Grows with every commit, not densely. FoundationDB's are
// the cluster's; an embedded engine's begin anew each time the store is opened, so they are never stored.
using Version = int64_t;

struct KeyValue {
  std::string key;
  std::string value;

  friend bool operator==(const KeyValue&, const KeyValue&) = default;
};

// Keys in [begin, end).
struct KeyRange {
  std::string_view begin;
  std::string_view end;
};

struct RangeOptions {
  uint32_t rows_limit = 10'000;  // at least 1
  bool reverse = false;
};

struct RangeResult {
  std::vector<KeyValue> rows;
  // Whether rows are left behind the last one (an engine may stop before rows_limit; continue behind the last
  // key).
  bool more = false;
};

// Whether a read makes the transaction fail with Errc::conflict when the key changes before it commits.
enum class Isolation : uint8_t {
  serializable,
  snapshot,
};

// One attempt of a transaction. Reads see the store at one version plus nothing of the transaction's own
// writes ("read your writes" is off in every engine). Once the version is known, reads at snapshot isolation
// may overlap, also with mutations. Those apply in order, all or none, when commit()
// succeeds.
class Transaction {
 public:
  virtual ~Transaction() = default;

  // Before anything else is asked of it: background work, which yields to everything else where the store
  // knows how.
  virtual void set_background() {}

  // The version that reads see; chosen by the engine at first use, unless set before that. A set version
  // proves nothing about later changes except through conflicts: see add_read_conflict.
  virtual Task<Result<Version>> read_version() = 0;
  virtual void set_read_version(Version version) = 0;

  // Before anything else is asked of it: reads may see the store as it was some seconds ago, where that saves
  // asking for a version; whether they do. Then what was read serializably is proven by a commit that changes
  // something, and by nothing else.
  virtual bool use_recent_version() { return false; }

  // `key` and the range's bounds must live until the task is done. Errc::unavailable where the read version
  // is too old (the caller starts again); Errc::corruption, Errc::io from the store.
  virtual Task<Result<std::optional<std::string>>> get(std::string_view key, Isolation isolation) = 0;
  virtual Task<Result<RangeResult>> get_range(KeyRange range, RangeOptions options, Isolation isolation) = 0;

  // Mutations copy what they are given. By default each also conflicts with other transactions that read the
  // key serializably.
  virtual void set(std::string_view key, std::string_view value) = 0;
  virtual void clear(std::string_view key) = 0;
  virtual void clear_range(KeyRange range) = 0;
  // value = old | operand, value = old & operand, bytewise. The operand's length is the new length: a missing
  // or shorter old value counts as zeroes. Idempotent. On a missing key bit_and stores the operand itself (as
  // FoundationDB does): use it only on a key that is known to exist.
  virtual void bit_or(std::string_view key, std::string_view operand) = 0;
  virtual void bit_and(std::string_view key, std::string_view operand) = 0;

  // From here on mutations are blind: no reader's transaction conflicts with them. For data that only the
  // owner of a volume writes, where the fence is the guard.
  virtual void disable_write_conflicts() = 0;

  // The commit fails with Errc::conflict if a key in `range` changed after the read version.
  virtual void add_read_conflict(KeyRange range) = 0;

  // Bytes of keys and values of the mutations so far, for the caller's size bounds.
  virtual uint64_t mutation_bytes() const = 0;

  // Waits until the store can take the mutations, as commit() does else. For a caller that sets the read
  // version behind it, where it does not age in a queue. Once, behind the last mutation; where no commit
  // follows, the transaction ends soon.
  virtual Task<void> await_turn() { co_return; }

  // Once; nothing else may be called after it. The version at which the transaction took effect. Failures:
  //   conflict        nothing happened; a key of the read conflicts changed
  //   unavailable     nothing happened, and nothing will; try again
  //   unknown_result  it may have happened or may still happen: a barrier (a commit that writes a key in the
  //   transaction's read
  //                   conflicts) decides it
  //   no_space, io    nothing happened
  // A commit that succeeds is in the log of the store: it survives the death of this process, and with
  // FoundationDB also that of machines. Engine::sync makes it survive the rest.
  virtual Task<Result<Version>> commit() = 0;
};

// Where bulk reads deliver. Called on any thread, one call at a time per read, before the read's task
// continues. The value's bytes are only valid during the call.
class RowSink {
 public:
  // A row of ranges[range_index], in key order per range; or of points[point_index].
  virtual void on_range_row(size_t range_index, std::string_view key, std::string_view value) = 0;
  virtual void on_point_row(size_t point_index, std::string_view value) = 0;
  // The store could not deliver this row (its own checksum failed). The others are delivered all the same.
  virtual void on_unreadable_range_row(size_t range_index, std::string_view key) = 0;
  virtual void on_unreadable_point(size_t point_index) = 0;

 protected:
  ~RowSink() = default;
};

// What a bulk read asks for. The caller keeps the keys' memory until the read is done. A missing point
// delivers nothing.
struct BulkRead {
  std::vector<std::string_view> points;
  std::vector<KeyRange> ranges;  // delivered whole, without a row limit
  // Background work yields to everything else.
  bool background = false;
};

struct Capabilities {
  // Whether several processes can use the store at once (FoundationDB): volumes then need leases.
  bool shared_between_hosts = false;
  // How many transactions a volume should keep in flight.
  uint32_t commits_in_flight = 1;
  // Whether beginning a transaction takes long enough to do it before there is anything to commit.
  bool begins_ahead = false;
  // Whether a commit may end with unknown_result.
  bool commits_can_be_in_doubt = true;
  // Whether a successful commit is already on stable storage, so that sync() does nothing.
  bool commits_are_durable = false;
  // A range with more bytes of rows than this takes several replies, one after the other, so a large read is
  // better cut into ranges of this size; 0: no bound.
  uint64_t range_reply_bytes = 0;
};

struct EngineStats {
  // Bytes on disk (or in memory), as far as the engine knows; 0 where it does not.
  uint64_t stored_bytes = 0;
  // Bound of the memory that the engine keeps for caches and buffers.
  uint64_t memory_bound_bytes = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // "rocksdb", "memory", "fdb".
  virtual std::string_view name() const = 0;
  virtual Capabilities capabilities() const = 0;
  virtual EngineStats stats() const = 0;

  // The transaction must not outlive the engine; its tasks run on `executor`.
  virtual std::unique_ptr<Transaction> begin(Executor& executor) = 0;

  // Reads many rows, each as of some version no older than every commit that had succeeded when the call was
  // made (and not necessarily one version for all). `request` and `sink` live until the task is done.
  virtual Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) = 0;

  // When it succeeds, every commit that had succeeded before the call is on stable storage. After it has
  // failed once with Errc::io the state of the disk is unknown: all later commits and syncs fail too.
  virtual Task<Result<void>> sync(Executor& executor) = 0;
};

}  // namespace fdbnbd::kv
