#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/function.h"
#include "base/result.h"
#include "net/fd.h"

struct nbd_handle;

namespace fdbnbd::cli {

// A stretch of a disk that reads as zeroes, or may have data.
struct DiskExtent {
  uint64_t length_bytes = 0;
  bool is_zero = false;
};

// A volume as an NBD client sees it, over a connection that is there already. Requests run in parallel: they
// are begun, and wait_below() lets them end. One thread.
class NbdDisk {
 public:
  // Errors of the server's refusal (not_found, ...), protocol, io.
  static Result<NbdDisk> open(net::OwnedFd socket, const std::string& name);

  NbdDisk(NbdDisk&&) noexcept;
  NbdDisk& operator=(NbdDisk&&) = delete;
  // Says good-bye. What is in flight is given up.
  ~NbdDisk();

  uint64_t size_bytes() const { return size_bytes_; }
  bool read_only() const;

  // `on_done` is called inside wait_below(), or never where the disk ends before. The memory lives until
  // then. The first failure is also kept for wait_below().
  using Done = UniqueFunction<void(bool succeeded)>;
  Result<void> begin_read(uint64_t offset_bytes, MutableByteView into, Done on_done);
  Result<void> begin_write(uint64_t offset_bytes, ByteView data, Done on_done);
  // At most limits::kTransferZeroBytes.
  Result<void> begin_zero(uint64_t offset_bytes, uint64_t length_bytes, Done on_done);

  // Waits until fewer than `count` (> 0) requests are in flight. Fails with the first failure of a request.
  Result<void> wait_below(size_t count);
  size_t in_flight_count() const;

  // Waits until a request of either may have ended, or a signal came. At least one has to be in flight. Fails
  // as wait_below().
  static Result<void> wait_for_either(NbdDisk& one, NbdDisk& other);

  // What is behind [offset, offset + length), from the offset on; at least one extent.
  Result<std::vector<DiskExtent>> block_status(uint64_t offset_bytes, uint64_t length_bytes);

  // Everything that was written is on stable storage.
  Result<void> flush();

 private:
  struct State;
  struct Request;

  NbdDisk(std::unique_ptr<State> state, uint64_t size_bytes);
  static int on_complete(void* user_data, int* error);
  // Takes what has come, sends what waits.
  Result<void> move_on(short events);

  // Moves with the object; requests in flight point to it.
  std::unique_ptr<State> state_;
  uint64_t size_bytes_ = 0;
};

}  // namespace fdbnbd::cli
