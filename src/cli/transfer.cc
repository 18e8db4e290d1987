#include "cli/transfer.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "cli/progress.h"

namespace fdbnbd::cli {

namespace {

using limits::kTransferRequestBytes;
using limits::kTransferRequestsInFlight;

// Zeroes are looked for in pieces of this size: smaller than most volumes' blocks would only make requests.
constexpr uint64_t kZeroPieceBytes = 4 * limits::kKiB;

// How often who waits for a pipe looks whether progress is asked for.
constexpr int kWaitMs = 200;

using Memory = std::shared_ptr<std::vector<std::byte>>;

tl::unexpected<Error> system_error(std::string_view doing, const std::string& name) {
  const int error = errno;
  return fail(error == ENOSPC || error == EDQUOT ? Errc::no_space
              : error == EPIPE                   ? Errc::peer_gone
                                                 : Errc::io,
              fmt::format("cannot {} {}: {}", doing, name, std::strerror(error)));
}

class PipeSource final : public ByteSource {
 public:
  PipeSource(int fd, std::string name, ProgressDisplay& display)
      : fd_(fd), name_(std::move(name)), display_(display) {}

  Result<Stretch> next(MutableByteView into) override {
    ASSIGN_OR_RETURN(const size_t filled, read_fully(fd_, into, name_, &display_));
    return Stretch{.length_bytes = filled, .is_hole = false};
  }

 private:
  const int fd_;
  const std::string name_;
  ProgressDisplay& display_;
};

class FileSource final : public ByteSource {
 public:
  FileSource(int fd, std::string name, uint64_t size_bytes)
      : fd_(fd), name_(std::move(name)), size_bytes_(size_bytes) {}

  Result<Stretch> next(MutableByteView into) override {
    RETURN_IF_ERROR(check_interrupt());
    if (offset_bytes_ == size_bytes_) return Stretch{};
    if (offset_bytes_ >= data_end_bytes_) {
      ASSIGN_OR_RETURN(const uint64_t data_begin_bytes, find_data());
      const Stretch hole{.length_bytes = data_begin_bytes - offset_bytes_, .is_hole = true};
      offset_bytes_ += hole.length_bytes;
      if (hole.length_bytes > 0) return hole;
    }
    const size_t wanted = std::min<uint64_t>(into.size(), data_end_bytes_ - offset_bytes_);
    size_t filled = 0;
    while (filled < wanted) {
      const ssize_t count =
          ::pread(fd_, into.data() + filled, wanted - filled, static_cast<off_t>(offset_bytes_ + filled));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return system_error("read", name_);
      if (count == 0) return became_shorter();
      filled += static_cast<size_t>(count);
    }
    offset_bytes_ += wanted;
    return Stretch{.length_bytes = wanted, .is_hole = false};
  }

 private:
  // Where the next data begins; it ends at data_end_bytes_.
  Result<uint64_t> find_data() {
    const auto at = static_cast<off_t>(offset_bytes_);
    const off_t data = ::lseek(fd_, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) {
      // No data behind it, or no file any more.
      RETURN_IF_ERROR(check_length());
      return size_bytes_;
    }
    const off_t hole = data < 0 ? -1 : ::lseek(fd_, data, SEEK_HOLE);
    if (data < 0 || hole < 0) {  // the file system cannot tell
      data_end_bytes_ = size_bytes_;
      return offset_bytes_;
    }
    data_end_bytes_ = std::min(static_cast<uint64_t>(hole), size_bytes_);
    return std::min(static_cast<uint64_t>(data), size_bytes_);
  }

  tl::unexpected<Error> became_shorter() const {
    return fail(Errc::io, fmt::format("{} became shorter while it was read", name_));
  }

  Result<void> check_length() const {
    const off_t end = ::lseek(fd_, 0, SEEK_END);
    if (end < 0) return system_error("read", name_);
    if (static_cast<uint64_t>(end) < size_bytes_) return became_shorter();
    return {};
  }

  const int fd_;
  const std::string name_;
  const uint64_t size_bytes_;
  uint64_t offset_bytes_ = 0;
  uint64_t data_end_bytes_ = 0;
};

class Importer {
 public:
  Importer(NbdDisk& disk, ImportOptions options, ProgressDisplay& display)
      : disk_(disk), options_(options), display_(display) {}

  Result<uint64_t> run(ByteSource& source, uint64_t total_bytes) {
    while (true) {
      auto memory = std::make_shared<std::vector<std::byte>>(kTransferRequestBytes);
      ASSIGN_OR_RETURN(const ByteSource::Stretch stretch, source.next(*memory));
      if (stretch.length_bytes == 0) break;
      if (stretch.length_bytes > disk_.size_bytes() - offset_bytes_) {
        return fail(Errc::no_space, fmt::format("the data is larger than the volume, which has {} bytes",
                                                disk_.size_bytes()));
      }
      if (stretch.is_hole) {
        RETURN_IF_ERROR(zero(offset_bytes_, stretch.length_bytes));
      } else {
        RETURN_IF_ERROR(write(memory, stretch.length_bytes));
      }
      offset_bytes_ += stretch.length_bytes;
      display_.update(offset_bytes_, total_bytes);
    }
    RETURN_IF_ERROR(disk_.wait_below(1));
    RETURN_IF_ERROR(disk_.flush());
    return offset_bytes_;
  }

 private:
  // Writes the runs of data, and zeroes what lies between them.
  Result<void> write(const Memory& memory, uint64_t length_bytes) {
    const ByteView bytes = ByteView(*memory).first(length_bytes);
    const auto piece_is_zero = [&](uint64_t begin) {
      return is_all_zero(bytes.subspan(begin, std::min(kZeroPieceBytes, length_bytes - begin)));
    };
    uint64_t begin = 0;
    while (begin < length_bytes) {
      const bool is_zero = piece_is_zero(begin);
      uint64_t end = std::min(begin + kZeroPieceBytes, length_bytes);
      while (end < length_bytes && piece_is_zero(end) == is_zero)
        end = std::min(end + kZeroPieceBytes, length_bytes);
      if (is_zero) {
        RETURN_IF_ERROR(zero(offset_bytes_ + begin, end - begin));
      } else {
        RETURN_IF_ERROR(disk_.wait_below(kTransferRequestsInFlight));
        RETURN_IF_ERROR(disk_.begin_write(offset_bytes_ + begin, bytes.subspan(begin, end - begin),
                                          [memory](bool /*succeeded*/) {}));
      }
      begin = end;
    }
    return {};
  }

  Result<void> zero(uint64_t offset_bytes, uint64_t length_bytes) {
    if (options_.volume_is_blank) return {};
    while (length_bytes > 0) {
      const uint64_t part_bytes = std::min(length_bytes, limits::kTransferZeroBytes);
      RETURN_IF_ERROR(disk_.wait_below(kTransferRequestsInFlight));
      RETURN_IF_ERROR(disk_.begin_zero(offset_bytes, part_bytes, {}));
      offset_bytes += part_bytes;
      length_bytes -= part_bytes;
    }
    return {};
  }

  NbdDisk& disk_;
  const ImportOptions options_;
  ProgressDisplay& display_;
  uint64_t offset_bytes_ = 0;
};

class Exporter {
 public:
  Exporter(NbdDisk& disk, int fd, ExportOptions options, ProgressDisplay& display)
      : disk_(disk), fd_(fd), options_(options), display_(display) {}

  Result<void> run() {
    while (offset_bytes_ < disk_.size_bytes()) {
      ASSIGN_OR_RETURN(const auto extents,
                       disk_.block_status(offset_bytes_, std::min(limits::kTransferStatusBytes,
                                                                  disk_.size_bytes() - offset_bytes_)));
      for (const DiskExtent& extent : extents) {
        RETURN_IF_ERROR(copy(extent));
        if (offset_bytes_ == disk_.size_bytes()) break;
      }
    }
    RETURN_IF_ERROR(write_finished(1));
    return {};
  }

 private:
  // A read in flight; they are written in order.
  struct Read {
    uint64_t offset_bytes = 0;
    std::vector<std::byte> bytes;
    bool done = false;
  };

  Result<void> copy(const DiskExtent& extent) {
    uint64_t left_bytes = std::min(extent.length_bytes, disk_.size_bytes() - offset_bytes_);
    if (extent.is_zero && options_.leave_holes) {
      offset_bytes_ += left_bytes;
      return {};
    }
    while (left_bytes > 0) {
      RETURN_IF_ERROR(check_interrupt());
      const uint64_t part_bytes = std::min<uint64_t>(left_bytes, kTransferRequestBytes);
      RETURN_IF_ERROR(write_finished(kTransferRequestsInFlight));
      auto read = std::make_shared<Read>();
      read->offset_bytes = offset_bytes_;
      read->bytes.resize(part_bytes);
      if (extent.is_zero) {
        read->done = true;
      } else {
        RETURN_IF_ERROR(
            disk_.begin_read(offset_bytes_, read->bytes, [read](bool succeeded) { read->done = succeeded; }));
      }
      reads_.push_back(std::move(read));
      offset_bytes_ += part_bytes;
      left_bytes -= part_bytes;
    }
    return {};
  }

  // Writes the oldest reads until fewer than `count` are left.
  Result<void> write_finished(size_t count) {
    while (reads_.size() >= count) {
      const std::shared_ptr<Read> read = reads_.front();
      while (!read->done) RETURN_IF_ERROR(disk_.wait_below(disk_.in_flight_count()));
      RETURN_IF_ERROR(write(*read));
      reads_.pop_front();
      display_.update(read->offset_bytes + read->bytes.size(), disk_.size_bytes());
    }
    return {};
  }

  Result<void> write(const Read& read) {
    ByteView rest = read.bytes;
    auto at = static_cast<off_t>(read.offset_bytes);
    while (!rest.empty()) {
      RETURN_IF_ERROR(check_interrupt());
      const ssize_t count = options_.leave_holes ? ::pwrite(fd_, rest.data(), rest.size(), at)
                                                 : ::write(fd_, rest.data(), rest.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return system_error("write", options_.target_name);
      rest = rest.subspan(static_cast<size_t>(count));
      at += count;
    }
    return {};
  }

  NbdDisk& disk_;
  const int fd_;
  const ExportOptions options_;
  ProgressDisplay& display_;
  uint64_t offset_bytes_ = 0;
  std::deque<std::shared_ptr<Read>> reads_;
};

}  // namespace

namespace {

// busy where another server has the volume: the handshake of NBD does not tell.
Result<void> check_holder(StoreAccess& access, const std::string& name) {
  ASSIGN_OR_RETURN(control::Client client, access.connect());
  ASSIGN_OR_RETURN(const std::string result, client.call(control::LockListRequest{}));
  ASSIGN_OR_RETURN(const auto locks, control::read_locks(result));
  for (const volume::LockInfo& lock : locks) {
    if (lock.volume != name || lock.state == volume::LockInfo::State::ours) continue;
    return fail(Errc::busy, fmt::format("volume \"{}\" is held by {}; stop it there, or take the volume with "
                                        "serve --takeover or lock break",
                                        name, lock.holder));
  }
  return {};
}

Result<net::OwnedFd> open_nbd_socket(StoreAccess& access) {
  ASSIGN_OR_RETURN(control::Client client, access.connect());
  return std::move(client).start_nbd();
}

}  // namespace

Result<NbdDisk> open_disk(StoreAccess& access, const std::string& name) {
  ASSIGN_OR_RETURN(net::OwnedFd socket, open_nbd_socket(access));
  auto disk = NbdDisk::open(std::move(socket), name);
  if (!disk) RETURN_IF_ERROR(check_holder(access, name));
  return disk;
}

Result<LoadConnection> open_load_connection(StoreAccess& access, const std::string& name,
                                            uint32_t slots_count) {
  ASSIGN_OR_RETURN(net::OwnedFd socket, open_nbd_socket(access));
  auto connection = LoadConnection::open(std::move(socket), name, slots_count);
  if (!connection) RETURN_IF_ERROR(check_holder(access, name));
  return connection;
}

tl::unexpected<Error> file_error(std::string_view doing, const std::string& path, int error) {
  const Errc code = error == ENOENT                      ? Errc::not_found
                    : error == EACCES || error == EPERM  ? Errc::permission
                    : error == ENOSPC || error == EDQUOT ? Errc::no_space
                                                         : Errc::io;
  return fail(code, fmt::format("cannot {} {}: {}", doing, path, std::strerror(error)));
}

std::unique_ptr<ByteSource> file_source(int fd, std::string name, uint64_t size_bytes) {
  return std::make_unique<FileSource>(fd, std::move(name), size_bytes);
}

Result<void> check_interrupt() {
  if (interrupted()) return fail(Errc::cancelled, "interrupted");
  return {};
}

Result<size_t> read_fully(int fd, MutableByteView into, const std::string& name, ProgressDisplay* display) {
  size_t filled = 0;
  while (filled < into.size()) {
    RETURN_IF_ERROR(check_interrupt());
    pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&readable, 1, kWaitMs);
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
      if (display != nullptr) display->update_again();
      continue;
    }
    const ssize_t count = ::read(fd, into.data() + filled, into.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("read", name);
    if (count == 0) break;
    filled += static_cast<size_t>(count);
  }
  return filled;
}

Result<uint64_t> import_bytes(ByteSource& source, uint64_t total_bytes, NbdDisk& disk, ImportOptions options,
                              ProgressDisplay& display) {
  return Importer(disk, options, display).run(source, total_bytes);
}

Result<uint64_t> import_bytes(int fd, NbdDisk& disk, ImportOptions options, ProgressDisplay& display) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return system_error("read", options.source_name);
  if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)) {
    const off_t end = ::lseek(fd, 0, SEEK_END);
    if (end < 0) return system_error("read", options.source_name);
    FileSource source(fd, options.source_name, static_cast<uint64_t>(end));
    return import_bytes(source, static_cast<uint64_t>(end), disk, options, display);
  }
  PipeSource source(fd, options.source_name, display);
  return import_bytes(source, 0, disk, options, display);
}

Result<void> export_bytes(NbdDisk& disk, int fd, ExportOptions options, ProgressDisplay& display) {
  return Exporter(disk, fd, options, display).run();
}

}  // namespace fdbnbd::cli
