#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/result.h"

// The stream of `export-diff` (docs/backup.md, "The stream"): what has to be written to a disk that is as one
// point of a volume to make it as another. Each record's checksum continues the one before it, so that the
// last one is right only where nothing is damaged, missing, doubled or out of place. Pure but for its input.

namespace fdbnbd::backup {

// A snapshot, in whichever store: copies of it have the id of the original.
struct SnapshotPoint {
  std::string name;
  uint64_t id = 0;

  friend bool operator==(const SnapshotPoint&, const SnapshotPoint&) = default;
};

struct StreamHeader {
  std::string volume;                 // where it was taken from, for people
  std::optional<SnapshotPoint> from;  // what the target has to be; nothing: empty
  std::optional<SnapshotPoint> to;    // what it becomes; nothing: no snapshot is made of it
  uint64_t size_bytes = 0;            // that it becomes
  uint32_t block_bytes = 0;
  uint8_t compression = 0;  // volume::Compression of the volume

  friend bool operator==(const StreamHeader&, const StreamHeader&) = default;
};

struct StreamTotals {
  uint64_t records_count = 0;  // of data and zeroes
  uint64_t data_bytes = 0;
  uint64_t zero_bytes = 0;

  friend bool operator==(const StreamTotals&, const StreamTotals&) = default;
};

struct StreamRecord {
  enum class Kind : uint8_t { data, zero, end };
  Kind kind = Kind::end;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  std::vector<std::byte> data;  // length_bytes, of data
};

// Where a stream stands between two records.
struct StreamState {
  uint64_t checksum = 0;
  uint64_t position_bytes = 0;  // in the stream
  uint64_t offset_bytes = 0;    // on the disk: the next record begins there or later
  StreamTotals totals;
};

// Makes the bytes of a stream, piece by piece.
class StreamWriter {
 public:
  // For a new stream, which begins with begin(); or to go on where another one stopped.
  StreamWriter() = default;
  explicit StreamWriter(const StreamState& state) : state_(state) {}

  // Each appends to `out`. Names are at most limits::kMaxVolumeNameBytes.
  void begin(std::string& out, const StreamHeader& header);
  // At most limits::kMaxStreamDataBytes. Ranges come in order and do not overlap.
  void add_data(std::string& out, uint64_t offset_bytes, ByteView data);
  void add_zero(std::string& out, uint64_t offset_bytes, uint64_t length_bytes);
  void end(std::string& out);

  const StreamState& state() const { return state_; }

 private:
  void add_record(std::string& out, char type, char codec, uint64_t offset_bytes, uint64_t length_bytes,
                  ByteView payload);

  StreamState state_;
  std::string compressed_;  // kept for its memory
};

// Where a reader gets its bytes.
class StreamInput {
 public:
  // Fills `into`, or less where the stream ends.
  virtual Result<size_t> read(MutableByteView into) = 0;

 protected:
  ~StreamInput() = default;
};

// Reads and verifies a stream. Errc::corruption: damaged, or it ends too early. Errc::newer_format. No record
// is given that its checksum does not prove. What a damaged stream says makes it take no memory beyond the
// bounds.
class StreamReader {
 public:
  // The input outlives the reader.
  explicit StreamReader(StreamInput& input) : input_(input) {}

  // First.
  Result<StreamHeader> read_header();
  // The next record; behind Kind::end there is nothing more, and that the input ends there is checked.
  Result<StreamRecord> next();

  // Behind the last record that was read.
  const StreamState& state() const { return state_; }

 private:
  struct RawRecord {
    char type = 0;
    char codec = 0;
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    std::vector<std::byte> payload;
  };

  Result<RawRecord> read_record();
  Result<void> read_exactly(MutableByteView into);
  Result<void> check_end(const RawRecord& raw);
  Result<void> take_data(RawRecord raw, StreamRecord& record);
  tl::unexpected<Error> damaged(std::string_view why) const;

  StreamInput& input_;
  StreamState state_;
  uint64_t size_bytes_ = 0;
};

}  // namespace fdbnbd::backup
