#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/function.h"
#include "base/result.h"
#include "cli/progress.h"
#include "net/fd.h"

namespace fdbnbd::cli {

// Disk images that are not raw, read with the help of qemu-img.

// "raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc": by what the file begins with.
std::string detect_image_format(ByteView beginning);
inline constexpr size_t kImageMagicBytes = 512;

// What qemu-img says of the disk's size. not_supported where there is no qemu-img.
Result<uint64_t> qemu_image_size(const std::string& path, const std::string& format);

struct QemuConversion {
  std::string path;
  std::string format;
  std::string volume;
  bool volume_is_blank = false;
};

// Has qemu-img write the image into the volume. `connect` gives it NBD connections; it is called on a thread
// of its own. Not flushed.
Result<void> qemu_convert(const QemuConversion& conversion, UniqueFunction<Result<net::OwnedFd>()> connect,
                          ProgressDisplay& display);

}  // namespace fdbnbd::cli
