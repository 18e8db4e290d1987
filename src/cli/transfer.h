#pragma once

#include <string>

#include "base/result.h"
#include "cli/nbd_disk.h"
#include "cli/progress.h"

namespace fdbnbd::cli {

// Bytes between a volume and a file, with many requests in flight. Errc::cancelled after an interrupt.

struct ImportOptions {
  // Whether the volume reads as zeroes everywhere now, so that zeroes need not be written.
  bool volume_is_blank = false;
};

// Copies what `fd` has, from its beginning (a file, whose holes are found) or from where it stands (a pipe),
// to the beginning of the volume, and flushes. Returns how many bytes there were. no_space where they are
// more than the volume has.
Result<uint64_t> import_bytes(int fd, NbdDisk& disk, ImportOptions options, ProgressDisplay& display);

struct ExportOptions {
  // Whether `fd` can seek and reads as zeroes where nothing is written, so that holes are left out.
  bool leave_holes = false;
};

// Copies the whole volume to `fd`.
Result<void> export_bytes(NbdDisk& disk, int fd, ExportOptions options, ProgressDisplay& display);

}  // namespace fdbnbd::cli
