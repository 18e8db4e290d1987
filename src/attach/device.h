#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proto/client_handshake.h"

// The kernel's NBD devices, as sysfs shows them.

namespace fdbnbd::attach {

// "/dev/nbd3" → 3; Errc::invalid for anything else.
Result<uint32_t> parse_device_path(std::string_view path);
std::string device_path(uint32_t index);

struct AttachedDevice {
  uint32_t index = 0;
  int64_t pid = 0;      // of the process that attached it
  std::string backend;  // the name that it was attached under; empty where it has none

  friend bool operator==(const AttachedDevice&, const AttachedDevice&) = default;
};

class Devices {
 public:
  explicit Devices(std::string sys_block = "/sys/block") : sys_block_(std::move(sys_block)) {}

  // The device where it is attached.
  std::optional<AttachedDevice> find(uint32_t index) const;
  // What the kernel makes of an attached device: its size, and those of the transmission flags that it acts
  // on.
  proto::ExportTerms terms(uint32_t index) const;
  // All that are attached, by number.
  std::vector<AttachedDevice> list() const;

 private:
  const std::string sys_block_;
};

// The name under which a volume is attached, and the volume of such a name; nullopt for what others attached.
std::string backend_of(std::string_view volume);
std::optional<std::string> volume_of(std::string_view backend);

// Errc::busy where the device, or a partition of it, is mounted, is swap, or belongs to another device
// (device mapper, RAID); the message says where. Programs that just have it open do not count.
Result<void> check_unused(uint32_t index);

// Where `device` or a partition of it is mounted, by the text of /proc/self/mountinfo.
std::optional<std::string> mounted_at(std::string_view mountinfo, std::string_view device);

}  // namespace fdbnbd::attach
