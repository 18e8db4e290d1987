#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "cli/load_connection.h"
#include "cli/nbd_disk.h"
#include "cli/progress.h"
#include "cli/store_access.h"

namespace fdbnbd::cli {

// Bytes between a volume and a file, with many requests in flight. Errc::cancelled after an interrupt.

// The volume, over an NBD connection of its own.
Result<NbdDisk> open_disk(StoreAccess& access, const std::string& name);

// The volume to be measured, with at most `slots_count` requests in flight.
Result<LoadConnection> open_load_connection(StoreAccess& access, const std::string& name,
                                            uint32_t slots_count);

// "cannot DOING PATH: ...", with the code that fits `error`, an errno.
tl::unexpected<Error> file_error(std::string_view doing, const std::string& path, int error);

struct ImportOptions {
  // Whether the volume reads as zeroes everywhere now, so that zeroes need not be written.
  bool volume_is_blank = false;
  std::string source_name;  // for messages
};

// Where the bytes of an import come from: stretches in order, without gaps.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  struct Stretch {
    uint64_t length_bytes = 0;  // 0: the end
    bool is_hole = false;       // zeroes, and nothing was put into the memory
  };
  // The next stretch; what is no hole fills the beginning of `into`.
  virtual Result<Stretch> next(MutableByteView into) = 0;
};

// The first `size_bytes` of a file, called `name` in messages, whose holes are found. io where it has become
// shorter than that. `fd` outlives it.
std::unique_ptr<ByteSource> file_source(int fd, std::string name, uint64_t size_bytes);

// Errc::cancelled after an interrupt.
Result<void> check_interrupt();

// Fills `into` from a file or a pipe, called `name` in messages, or as much of it as there is before the end.
// `display`, where there is one, is updated also while nothing comes.
Result<size_t> read_fully(int fd, MutableByteView into, const std::string& name, ProgressDisplay* display);

// Copies what `source` has to the beginning of the volume, and flushes. Returns how many bytes there were.
// no_space where they are more than the volume has. `total_bytes` is for the display; 0: not known.
Result<uint64_t> import_bytes(ByteSource& source, uint64_t total_bytes, NbdDisk& disk, ImportOptions options,
                              ProgressDisplay& display);

// Copies what `fd` has, from its beginning (a file, whose holes are found) or from where it stands (a pipe),
// in the same way.
Result<uint64_t> import_bytes(int fd, NbdDisk& disk, ImportOptions options, ProgressDisplay& display);

struct ExportOptions {
  // Whether `fd` can seek and reads as zeroes where nothing is written, so that holes are left out.
  bool leave_holes = false;
  std::string target_name;  // for messages
};

// Copies the whole volume to `fd`.
Result<void> export_bytes(NbdDisk& disk, int fd, ExportOptions options, ProgressDisplay& display);

}  // namespace fdbnbd::cli
