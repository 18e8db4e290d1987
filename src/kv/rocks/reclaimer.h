#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "kv/rocks/key_router.h"
#include "kv/rocks/rocks_store.h"

namespace fdbnbd::kv {

// Gives the space of large cleared ranges back to the file system: RocksDB itself does so when later writes
// happen to compact them, which in a quiet store is never.
class Reclaimer {
 public:
  explicit Reclaimer(RocksStore& store) : store_(store), thread_([this] { work(); }) {}
  // Breaks off what it is doing.
  ~Reclaimer();

  // A range of bulk rows was cleared by a tombstone. Any thread.
  void note_cleared(const RangePart& part);

 private:
  void work();
  // Whether it was done.
  bool reclaim(const std::string& begin, const std::string& end);
  // Behind a write that is under way.
  bool is_log_torn();
  // Waits until what is in memory now is in files; false where that takes long or fails.
  bool write_out_memory();
  void add(std::string begin, std::string end);  // under mutex_

  RocksStore& store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // The hull of what was cleared and not compacted yet, empty where there is none. Guarded by mutex_.
  std::string begin_;
  std::string end_;
  std::atomic<bool> stopping_ = false;  // set under mutex_
  std::thread thread_;                  // last: it uses all of the above
};

}  // namespace fdbnbd::kv
