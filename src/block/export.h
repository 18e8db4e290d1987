#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/bytes.h"
#include "base/result.h"

// What an NBD session knows of a disk, and nothing else.

namespace fdbnbd::block {

// What a client is told at negotiation. Constant for a session but for the size.
struct ExportInfo {
  std::string name;
  std::string description;
  uint64_t size_bytes = 0;
  uint32_t min_block_bytes = 1;
  uint32_t preferred_block_bytes = 4096;
  uint32_t max_payload_bytes = 0;
  bool read_only = false;
  // What topic_status() answers. Only what ExportRegistry::describe() tells has the snapshots.
  bool has_depth = false;
  std::vector<std::string> snapshots = {};
};

// A part of a read's answer: `length_bytes` bytes that are in the buffer, or that are a hole (they read as
// zero, and the buffer holds whatever it held before).
struct ReadSegment {
  uint32_t length_bytes = 0;
  bool is_hole = false;

  friend bool operator==(const ReadSegment&, const ReadSegment&) = default;
};

// Allocation of a stretch of the disk, as base:allocation tells it (NBD proto, "base:allocation").
struct StatusExtent {
  uint64_t length_bytes = 0;
  bool is_hole = false;  // nothing is stored; implies is_zero here
  bool is_zero = false;  // reads as zeroes

  friend bool operator==(const StatusExtent&, const StatusExtent&) = default;
};

// A stretch of the disk with the flags that a metadata context gives it.
struct FlaggedExtent {
  uint64_t length_bytes = 0;
  uint32_t flags = 0;

  friend bool operator==(const FlaggedExtent&, const FlaggedExtent&) = default;
};

// What a disk can tell of its blocks beside their allocation.
struct StatusTopic {
  enum class Kind : uint8_t {
    depth,          // 0: nothing is stored or said, 1: by the layer that is written, 2: by one below
    changed_since,  // 1: may have changed since `snapshot`, 0: has not
  };
  Kind kind = Kind::depth;
  std::string snapshot;  // of the same disk, without its name

  friend bool operator==(const StatusTopic&, const StatusTopic&) = default;
};

struct WriteOptions {
  bool fua = false;  // answered only when it is on stable storage
};

struct ZeroOptions {
  bool fua = false;
  bool no_hole = false;    // the range must not become a hole
  bool fast_only = false;  // Errc::not_supported unless it is faster than writing zeroes
};

// A disk that is open for one or more sessions. All calls on the thread of executor(), each may be called
// while others run. Ranges are any alignment down to one byte and must lie inside the disk and be at least
// one byte long (the session has checked; the disk may have shrunk meanwhile and then answers Errc::invalid
// or Errc::past_end).
//
// Errc::cancelled from any of them: the disk goes on in another server. The request is not answered, and the
// connection ends once the others are, so that the client connects anew and sends it again.
//
// Order: a write is seen by every read that begins after it was answered, on any session. Writes that overlap
// take effect in the order of the calls.
class Export {
 public:
  virtual ~Export() = default;

  virtual Executor& executor() = 0;
  virtual ExportInfo info() const = 0;
  // info().size_bytes, which sessions ask for with every batch of requests.
  virtual uint64_t size_bytes() const { return info().size_bytes; }

  // Fills `into` except where the segments say hole; the segments add up to into.size(), neighbours differ in
  // is_hole, and a hole covers whole blocks of the disk or reaches the end of the range. `into` is the
  // caller's until the task is done.
  virtual Task<Result<std::vector<ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) = 0;

  // `data` is the caller's until the task is done.
  virtual Task<Result<void>> write(uint64_t offset_bytes, ByteView data, WriteOptions options) = 0;

  // Everything that was answered before this call is on stable storage when it succeeds, whichever session it
  // came from.
  virtual Task<Result<void>> flush() = 0;

  virtual Task<Result<void>> trim(uint64_t offset_bytes, uint64_t length_bytes, WriteOptions options) = 0;
  virtual Task<Result<void>> write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                          ZeroOptions options) = 0;
  virtual Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) = 0;

  // At least one extent, at most `extents_limit`; together at most length_bytes, from offset_bytes on without
  // gaps; neighbours differ.
  virtual Task<Result<std::vector<StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                               uint32_t extents_limit) = 0;

  // The same about `topic`, where info() offers it. not_found where the snapshot is not there any more.
  virtual Task<Result<std::vector<FlaggedExtent>>> topic_status(StatusTopic /*topic*/,
                                                                uint64_t /*offset_bytes*/,
                                                                uint64_t /*length_bytes*/,
                                                                uint32_t /*extents_limit*/) {
    co_return fail(Errc::not_supported, "the disk does not tell that of its blocks");
  }
};

struct ExportListing {
  std::string name;
  std::string description;
};

// The exports of a server, by name. Any session's handshake asks; all calls on the thread of the executor
// given.
class ExportRegistry {
 public:
  virtual ~ExportRegistry() = default;

  // Every export's name; sessions bound what they send.
  virtual Task<Result<std::vector<ExportListing>>> list(Executor& executor) = 0;

  // Finds the export and keeps it open while the pointer lives. The empty name is the only volume, where
  // there is just one. Errors: not_found, permission, busy, ... The Export's executor may be another one than
  // `executor`: everything but destroying the pointer happens there.
  virtual Task<Result<std::shared_ptr<Export>>> open(Executor& executor, std::string name) = 0;

  // What open() would tell, without opening for a session.
  virtual Task<Result<ExportInfo>> describe(Executor& executor, std::string name) = 0;
};

}  // namespace fdbnbd::block
