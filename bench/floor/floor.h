#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kv/fdb/abi.h"
#include "kv/fdb/api.h"

// The floor: the least that a disk over FoundationDB has to do, straight on its C interface. The same keys,
// values and batches as the server's, and nothing else: no NBD, no checksums, no bitmaps, no locks.

namespace fdbnbd::floor {

using Clock = std::chrono::steady_clock;

inline constexpr uint64_t kBlockBytes = 4096;
inline constexpr uint64_t kValueBytes = kBlockBytes + 9;  // a stored block has a trailer
inline constexpr uint64_t kBlocksPerExtent = 1024;
inline constexpr uint64_t kStripesCount = 16;
inline constexpr uint64_t kBlocksPerTransaction = 64;  // 256 KiB, where so many are queued
inline constexpr uint64_t kBlocksPerRange = 19;        // what one reply holds
inline constexpr uint64_t kStreamRequestBlocks = 256;  // 1 MiB
inline constexpr size_t kTransactionsInFlight = 16;
inline constexpr auto kVersionAge = std::chrono::seconds(2);  // after which another one is asked for

// How a transaction comes by its read version.
enum class VersionSource {
  cached,  // set: of an earlier commit, with the fence key as a read conflict
  own,     // each asks for its own
};

struct Settings {
  std::string cluster_file;
  std::string load;
  uint64_t blocks_count = 0;
  double seconds = 0;
  size_t depth = 1;                               // requests outstanding
  uint64_t batch_blocks = kBlocksPerTransaction;  // at most; requests larger than that go in pieces of it
  VersionSource version_source = VersionSource::cached;
};

[[noreturn]] inline void die(std::string_view what) {
  std::fprintf(stderr, "fdb-nbd-floor: %.*s\n", static_cast<int>(what.size()), what.data());
  std::exit(1);
}

// Something that waits for one future of the library.
class Waiting {
 public:
  virtual ~Waiting() = default;
  virtual void on_ready() = 0;

  FDBFuture* future = nullptr;
};

// Calls `waiting`.on_ready() on the library's thread.
void call_back(const kv::fdb::Api& api, Waiting& waiting, FDBFuture* future);

// Carries what has ended from the library's thread to the one that measures.
class Completions {
 public:
  // `waiting` stays until its on_ready was called by run_ready().
  void add(const kv::fdb::Api& api, Waiting& waiting, FDBFuture* future);
  // Waits until something has ended and calls its on_ready(), which may add others.
  void run_ready();

 private:
  struct Entry {
    Completions* completions;
    Waiting* waiting;
  };
  static void on_ready(FDBFuture*, void* entry);

  std::mutex mutex_;
  std::condition_variable added_;
  std::vector<Waiting*> ready_;  // guarded by mutex_
};

// What a run measured.
struct Figures {
  uint64_t requests_count = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  uint64_t transactions_count = 0;
  uint64_t retries_count = 0;
  std::vector<double> latencies_us;

  void print(const Settings& settings);
};

// The database, the read version of the day, and the means to count.
class Floor {
 public:
  Floor(const kv::fdb::Api& api, const Settings& settings);
  ~Floor();

  const kv::fdb::Api& api;
  const Settings settings;
  FDBDatabase* database = nullptr;
  Completions completions;
  Figures figures;

  FDBTransaction* begin();
  // Waits for a version, on the spot.
  void refresh_version();
  // A version no older than about two seconds.
  int64_t version();
  void on_committed(int64_t version);

  // What happens while connections are made and the machine gets going is not counted.
  void start_clock(Clock::duration warm_up);
  bool is_over() const { return Clock::now() >= deadline_; }
  // A request that has ended, unless the load is still warming up.
  void count_request(Clock::time_point began_at, uint64_t bytes);
  void count_transaction();
  void stop_clock() { figures.seconds = std::chrono::duration<double>(Clock::now() - started_at_).count(); }

 private:
  int64_t version_ = 0;
  Clock::time_point version_at_{};
  Clock::time_point started_at_{};
  Clock::time_point deadline_{};
};

// As long as the server's keys, and outside its prefix.
std::string block_key(uint64_t block);
inline constexpr std::string_view kFenceKey = "floor--/F12345678";

// Bytes that do not compress, other ones each time.
class Data {
 public:
  Data();
  const uint8_t* value();

 private:
  std::vector<uint8_t> pool_;
  uint64_t state_ = 0x9e3779b97f4a7c15;
};

class RandomBlocks {
 public:
  explicit RandomBlocks(uint64_t blocks_count) : blocks_count_(blocks_count) {}
  uint64_t next();

 private:
  const uint64_t blocks_count_;
  uint64_t state_ = 0x2545f4914f6cdd1d;
};

// The loads.
void fill(Floor& floor);
void write_blocks(Floor& floor);  // 4 KiB at random
void write_stream(Floor& floor);  // 1 MiB in order
void read_blocks(Floor& floor);   // 4 KiB at random
void read_stream(Floor& floor);   // 1 MiB in order

inline const uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}
inline int length_of(std::string_view text) {
  return static_cast<int>(text.size());
}

}  // namespace fdbnbd::floor
