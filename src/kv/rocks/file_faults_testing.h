#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace fdbnbd::kv {

// While one lives, calls of the C library that change files (making one, reserving
// space, writing, syncing) fail or wait as it says: those of RocksDB and of
// this program alike, on any thread. One at a time.
class FileFaults {
 public:
  enum class Call { create, reserve, write, sync };

  struct Attempt {
    Call call;
    std::string path;
    size_t bytes = 0;    // of a write or reservation
    std::string thread;  // the name of the one that makes it: flushes are on "rocksdb:high", compactions on
                         // "rocksdb:low"

    // Whether the file's name ends so.
    bool on(std::string_view name_end) const { return path.ends_with(name_end); }
  };
  // What happens instead.
  struct Verdict {
    int error = 0;             // an errno; 0: nothing, the call goes through
    size_t written_bytes = 0;  // of a write, before that error
  };
  // Called before each call, on its thread, maybe on several at once. May block.
  using Judge = std::function<Verdict(const Attempt&)>;

  explicit FileFaults(Judge judge);
  FileFaults(const FileFaults&) = delete;
  FileFaults& operator=(const FileFaults&) = delete;
  // Waits for calls that are being judged.
  ~FileFaults();
};

}  // namespace fdbnbd::kv
