#pragma once

#include <optional>
#include <string>
#include <vector>

#include "attach/device.h"
#include "attach/netlink.h"
#include "attach/supervisor.h"
#include "base/function.h"
#include "net/fd.h"

// Attaching, supervising and detaching, put together. Blocking; one thread.

namespace fdbnbd::attach {

struct AttachOptions {
  std::optional<uint32_t> index;   // any free device where it is not set
  uint32_t connections_count = 1;  // at most; one where the server does not allow several
  bool read_only = false;
  DeviceTimeouts timeouts;
};

// One volume that this process has attached. Its end leaves the device attached, without anybody who looks
// after it.
class Attachment final : private Device {
 public:
  // Connects and makes the device. Where the device is attached already, as the same volume, and has lost its
  // supervisor, takes it over as it is. Errors: those of Servers::open() and KernelNbd. `servers` outlives
  // this.
  static Result<std::unique_ptr<Attachment>> start(Servers& servers, const AttachOptions& options);

  uint32_t index() const { return index_; }

  // Looks after the device until it is detached, by whomever, or SIGHUP arrives. SIGTERM and SIGINT detach it
  // unless it is in use. These signals are blocked (net::block_signals).
  void supervise();

 private:
  Attachment(Servers& servers, KernelNbd kernel, const AttachOptions& options, uint32_t index,
             const proto::ExportTerms& terms, uint32_t connections_count);

  bool attached() const override;
  Result<bool> give(Link link) override;
  Result<void> resize(uint64_t size_bytes) override;

  // False: end.
  bool on_signal(int signal);

  Servers& servers_;
  KernelNbd kernel_;
  Devices devices_;
  const DeviceTimeouts timeouts_;
  const uint32_t index_;
  const int64_t pid_;  // of the attached device; another one means that somebody else has attached it since
  const Supervisor::Options supervised_;
  bool some_links_may_be_dead_ = false;  // before the kernel has told of any
};

// Ends the supervisor of a device and then the device. `force`: also where it is in use, which loses what was
// not written. Waits until the device is free; limits::kDetachPatience. Errors: not_found (not attached),
// busy, timeout (somebody has it open), not_supported, permission, io.
Result<void> detach_device(uint32_t index, bool force);

}  // namespace fdbnbd::attach
