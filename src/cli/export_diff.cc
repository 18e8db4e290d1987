#include "cli/export_diff.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backup/diff_stream.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/process_mark.h"
#include "cli/diff_reader.h"
#include "cli/nbd_disk.h"
#include "cli/partial_volume.h"
#include "cli/progress.h"
#include "cli/stream_file.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

// The snapshot that stands for a volume as it is now, while it is exported: this, and the process that
// exports. So several exports, of whichever hosts, do not meddle with each other's, and those of processes
// that have ended are known.
constexpr std::string_view kNowSnapshotPrefix = ".export-diff-";
// The name of such a snapshot of versions that did not tell who exports.
constexpr std::string_view kNamelessNowSnapshot = ".export-diff";

std::string now_snapshot_of(const ProcessMark& process) {
  return fmt::format("{}{:016x}-{:08x}-{:016x}", kNowSnapshotPrefix, process.host, process.pid,
                     process.started);
}

// Nothing where the name is not of that form.
std::optional<ProcessMark> exporter_of(const std::string& snapshot) {
  if (!snapshot.starts_with(kNowSnapshotPrefix)) return std::nullopt;
  const char* at = snapshot.data() + kNowSnapshotPrefix.size();
  const char* const end = snapshot.data() + snapshot.size();
  const auto take = [&](auto& field) {
    const auto parsed = std::from_chars(at, end, field, 16);
    at = parsed.ptr == end ? end : parsed.ptr + 1;  // what is between is compared in the end
    return parsed.ec == std::errc();
  };
  ProcessMark process;
  if (!take(process.host) || !take(process.pid) || !take(process.started)) return std::nullopt;
  if (now_snapshot_of(process) != snapshot) return std::nullopt;
  return process;
}

enum class Leftover {
  no,
  aged,  // nobody knows whether its export runs, which it hardly does
  yes,
};

Leftover leftover_state(const volume::SnapshotInfo& snapshot) {
  const bool is_aged = system_clock().wall_now() - snapshot.created > limits::kExportLeftoverAge;
  const auto exporter = exporter_of(snapshot.name);
  if (exporter && has_ended(*exporter)) return Leftover::yes;
  // One of this host that has not ended runs, however long.
  const bool is_known = exporter && exporter->host != 0 && exporter->host == this_process().host;
  const bool is_ours = exporter || snapshot.name == kNamelessNowSnapshot;
  return is_ours && !is_known && is_aged ? Leftover::aged : Leftover::no;
}

// A name is on stable storage when its directory is.
Result<void> sync_directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const net::OwnedFd opened(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems know no such thing.
  if (!opened || (::fsync(opened.get()) != 0 && errno != EINVAL && errno != EROFS))
    return file_error("write", directory, errno);
  return {};
}

// Where a stream goes: stdout, or FILE by way of FILE.partial.
class StreamTarget {
 public:
  explicit StreamTarget(const ExportDiffArguments& arguments)
      : path_(arguments.file), partial_path_(arguments.file + ".partial"), force_(arguments.force) {}

  Result<void> open() {
    if (path_ == "-") return {};
    struct stat status{};
    const bool exists = ::stat(path_.c_str(), &status) == 0;
    if (exists && !S_ISREG(status.st_mode))
      return fail(Errc::invalid, fmt::format("{} is no regular file; write to - and redirect that", path_));
    if (exists && !force_) return fail(Errc::exists, fmt::format("{} exists; --force replaces it", path_));
    opened_ = net::OwnedFd(::open(partial_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (!opened_) return file_error("write", partial_path_, errno);
    fd_ = opened_.get();
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0)
      return fail(Errc::busy, fmt::format("another export-diff writes {}", partial_path_));
    return {};
  }

  // Where an earlier run for the same points stopped; a new stream where there is none. The target stands
  // there then. Nothing where that run was complete.
  Result<std::optional<backup::StreamWriter>> resume(const backup::StreamHeader& header) {
    backup::StreamState good;
    if (opened_ && header.to) {
      StreamFile input(fd_, partial_path_, nullptr);
      backup::StreamReader reader(input);
      const auto found = reader.read_header();
      if (found && *found == header) {
        while (true) {
          good = reader.state();
          const auto record = reader.next();
          if (!record) break;
          if (record->kind == backup::StreamRecord::Kind::end) return std::nullopt;
        }
      }
    }
    if (opened_) {
      RETURN_IF_ERROR(check_interrupt());
      if (::ftruncate(fd_, static_cast<off_t>(good.position_bytes)) != 0 ||
          ::lseek(fd_, static_cast<off_t>(good.position_bytes), SEEK_SET) < 0) {
        return file_error("write", partial_path_, errno);
      }
    }
    if (good.position_bytes > 0) return backup::StreamWriter(good);
    backup::StreamWriter writer;
    std::string bytes;
    writer.begin(bytes, header);
    RETURN_IF_ERROR(write(bytes));
    return writer;
  }

  Result<void> write(std::string_view bytes) {
    while (!bytes.empty()) {
      RETURN_IF_ERROR(check_interrupt());
      const ssize_t count = ::write(fd_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EPIPE) return fail(Errc::peer_gone, "nobody reads the stream any more");
      if (count < 0) return file_error("write", opened_ ? partial_path_ : "the stream", errno);
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return {};
  }

  Result<void> finish() {
    if (!opened_) return {};
    if (::fsync(fd_) != 0) return file_error("write", partial_path_, errno);
    if (::rename(partial_path_.c_str(), path_.c_str()) != 0) return file_error("write", path_, errno);
    return sync_directory_of(path_);
  }

 private:
  const std::string path_;
  const std::string partial_path_;
  const bool force_;
  net::OwnedFd opened_;
  int fd_ = STDOUT_FILENO;
};

// Puts what differs into the stream, with many reads in flight.
class StreamMaker {
 public:
  StreamMaker(NbdDisk& disk, backup::StreamWriter writer, StreamTarget& target, ProgressDisplay& display)
      : disk_(disk), writer_(std::move(writer)), target_(target), display_(display) {}

  Result<void> run(DiffReader& diff) {
    while (true) {
      ASSIGN_OR_RETURN(const auto range, diff.next());
      if (!range) break;
      RETURN_IF_ERROR(range->kind == volume::DiffKind::zero ? add_zero(*range) : read(*range));
    }
    RETURN_IF_ERROR(write_finished(1));
    writer_.end(out_);
    return target_.write(out_);
  }

 private:
  // In the order of the stream.
  struct Piece {
    volume::DiffRange range;
    std::vector<std::byte> data;
    bool done = false;
  };

  Result<void> add_zero(const volume::DiffRange& range) {
    auto piece = std::make_shared<Piece>();
    piece->range = range;
    piece->done = true;
    pieces_.push_back(std::move(piece));
    return write_finished(limits::kTransferRequestsInFlight);
  }

  Result<void> read(volume::DiffRange range) {
    while (range.length_bytes > 0) {
      RETURN_IF_ERROR(check_interrupt());
      RETURN_IF_ERROR(write_finished(limits::kTransferRequestsInFlight));
      auto piece = std::make_shared<Piece>();
      piece->range = range;
      piece->range.length_bytes = std::min(range.length_bytes, limits::kTransferRequestBytes);
      piece->data.resize(piece->range.length_bytes);
      RETURN_IF_ERROR(disk_.begin_read(range.offset_bytes, piece->data,
                                       [piece](bool succeeded) { piece->done = succeeded; }));
      range.offset_bytes += piece->range.length_bytes;
      range.length_bytes -= piece->range.length_bytes;
      pieces_.push_back(std::move(piece));
    }
    return {};
  }

  // Writes the oldest pieces until fewer than `count` are left.
  Result<void> write_finished(size_t count) {
    while (pieces_.size() >= count) {
      const std::shared_ptr<Piece> piece = pieces_.front();
      while (!piece->done) RETURN_IF_ERROR(disk_.wait_below(disk_.in_flight_count()));
      pieces_.pop_front();
      out_.clear();
      if (piece->range.kind == volume::DiffKind::zero) {
        writer_.add_zero(out_, piece->range.offset_bytes, piece->range.length_bytes);
      } else {
        writer_.add_data(out_, piece->range.offset_bytes, piece->data);
      }
      RETURN_IF_ERROR(target_.write(out_));
      out_.clear();
      display_.update(piece->range.offset_bytes + piece->range.length_bytes, disk_.size_bytes());
    }
    return {};
  }

  NbdDisk& disk_;
  backup::StreamWriter writer_;
  StreamTarget& target_;
  ProgressDisplay& display_;
  std::deque<std::shared_ptr<Piece>> pieces_;
  std::string out_;
};

class ExportDiff {
 public:
  ExportDiff(const Context& context, StoreAccess access, const ExportDiffArguments& arguments)
      : context_(context), access_(std::move(access)), arguments_(arguments), target_(arguments) {}

  Result<void> run() {
    volume::SnapshotName to{.volume = arguments_.name, .snapshot = now_snapshot_of(this_process())};
    if (volume::is_snapshot_name(arguments_.name)) {
      ASSIGN_OR_RETURN(to, volume::parse_snapshot_name(arguments_.name));
      RETURN_IF_ERROR(target_.open());
      return make(to, true);
    }
    RETURN_IF_ERROR(target_.open());
    RETURN_IF_ERROR(remove_leftovers());
    RETURN_IF_ERROR(context_.ask(access_, control::SnapRequest{{to.full()}}));
    auto made = make(to, false);
    const auto removed = remove(to);
    return made ? removed : made;
  }

 private:
  Result<void> remove(const volume::SnapshotName& snapshot) {
    return ask_when_free(context_, access_, control::RemoveRequest{.name = snapshot.full()});
  }

  // Of exports that were killed.
  Result<void> remove_leftovers() {
    ASSIGN_OR_RETURN(const volume::VolumeInfo info, describe_volume(arguments_.name));
    for (const volume::SnapshotInfo& snapshot : info.snapshots) {
      const Leftover state = leftover_state(snapshot);
      if (state == Leftover::no) continue;
      const volume::SnapshotName name{.volume = info.name, .snapshot = snapshot.name};
      const auto removed = state == Leftover::yes ? remove(name) : remove_unless_busy(name);
      if (!removed && removed.error().code != Errc::not_found) return removed;
    }
    return {};
  }

  // What somebody still reads belongs to an export that runs after all.
  Result<void> remove_unless_busy(const volume::SnapshotName& snapshot) {
    auto removed = context_.ask(access_, control::RemoveRequest{.name = snapshot.full()});
    if (!removed && removed.error().code != Errc::busy) return propagate(removed);
    return {};
  }

  Result<void> make(const volume::SnapshotName& to, bool names_it) {
    ASSIGN_OR_RETURN(const Points points, find_points(to, names_it));
    // Nobody removes it from now on.
    ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access_, to.full()));
    ASSIGN_OR_RETURN(auto writer, target_.resume(points.header));
    if (!writer) return target_.finish();
    ASSIGN_OR_RETURN(control::Client client, access_.connect());
    ASSIGN_OR_RETURN(DiffReader diff,
                     DiffReader::open(std::move(client), {.name = to.full(), .from = arguments_.from},
                                      writer->state().offset_bytes));
    ProgressDisplay display("Exporting " + arguments_.name, context_.shows_bar());
    RETURN_IF_ERROR(StreamMaker(disk, std::move(*writer), target_, display).run(diff));
    display.finish();
    ASSIGN_OR_RETURN(const Points now, find_points(to, names_it));
    if (now != points) {
      return fail(Errc::conflict,
                  fmt::format("a snapshot of volume {} was replaced meanwhile: start again", to.volume));
    }
    return target_.finish();
  }

  Result<volume::VolumeInfo> describe_volume(const std::string& name) {
    ASSIGN_OR_RETURN(const std::string result, context_.ask(access_, control::InfoRequest{name}));
    return control::read_volume(result);
  }

  // What is exported.
  struct Points {
    backup::StreamHeader header;
    uint64_t to_id = 0;  // also where the stream does not name it

    friend bool operator==(const Points&, const Points&) = default;
  };

  Result<Points> find_points(const volume::SnapshotName& to, bool names_it) {
    ASSIGN_OR_RETURN(const volume::VolumeInfo info, describe_volume(to.volume));
    backup::StreamHeader header{.volume = info.name,
                                .from = std::nullopt,
                                .to = std::nullopt,
                                .size_bytes = 0,
                                .block_bytes = info.block_bytes,
                                .compression = static_cast<uint8_t>(info.compression)};
    ASSIGN_OR_RETURN(const volume::SnapshotInfo end, find(info, to.snapshot));
    header.size_bytes = end.size_bytes;
    if (names_it) header.to = backup::SnapshotPoint{.name = end.name, .id = end.id};
    if (arguments_.from) {
      ASSIGN_OR_RETURN(const volume::SnapshotInfo begin, find(info, *arguments_.from));
      header.from = backup::SnapshotPoint{.name = begin.name, .id = begin.id};
    }
    return Points{std::move(header), end.id};
  }

  static Result<volume::SnapshotInfo> find(const volume::VolumeInfo& info, const std::string& name) {
    const auto found = std::ranges::find(info.snapshots, name, &volume::SnapshotInfo::name);
    if (found != info.snapshots.end()) return *found;
    return fail(Errc::not_found, fmt::format("there is no snapshot {}@{}", info.name, name));
  }

  const Context& context_;
  StoreAccess access_;
  const ExportDiffArguments& arguments_;
  StreamTarget target_;
};

}  // namespace

Result<void> export_diff(const Context& context, const ExportDiffArguments& arguments) {
  if (arguments.file == "-" && isatty(STDOUT_FILENO) == 1)
    return fail(Errc::invalid, "stdout is a terminal; send it to a file or a program");
  ASSIGN_OR_RETURN(StoreAccess access, context.open_store(StoreAccess::Missing::fail));
  return ExportDiff(context, std::move(access), arguments).run();
}

}  // namespace fdbnbd::cli
