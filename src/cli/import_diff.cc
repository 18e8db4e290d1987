#include "cli/import_diff.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "backup/diff_stream.h"
#include "base/limits.h"
#include "cli/nbd_disk.h"
#include "cli/output.h"
#include "cli/partial_volume.h"
#include "cli/progress.h"
#include "cli/stream_file.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

volume::Compression compression_of(uint8_t stored) {
  const auto compression = static_cast<volume::Compression>(stored);
  return compression <= volume::Compression::zstd ? compression : volume::CreateOptions{}.compression;
}

std::optional<volume::SnapshotRef> ref_of(const std::optional<backup::SnapshotPoint>& point) {
  if (!point) return std::nullopt;
  return volume::SnapshotRef{.name = point->name, .id = point->id};
}

class ImportDiff {
 public:
  ImportDiff(const Context& context, StoreAccess access, const ImportDiffArguments& arguments, int fd)
      : context_(context),
        access_(std::move(access)),
        input_(fd, arguments.file == "-" ? "stdin" : arguments.file, &display_),
        reader_(input_),
        display_("Importing into " + arguments.volume, context.shows_bar()) {
    import_.volume = arguments.volume;
    import_.partial = partial_name_of(arguments.volume);
  }

  Result<void> run() {
    ASSIGN_OR_RETURN(const backup::StreamHeader header, reader_.read_header());
    import_.from = ref_of(header.from);
    import_.to = ref_of(header.to);
    import_.options = {.size_bytes = header.size_bytes,
                       .block_bytes = header.block_bytes,
                       .compression = compression_of(header.compression)};
    ASSIGN_OR_RETURN(const bool is_there, has_result());
    if (is_there) {
      print_error(fmt::format("volume {} has snapshot {} of this stream already\n", import_.volume,
                              import_.to->name));
      return {};
    }
    RETURN_IF_ERROR(remove_leftover());
    ASSIGN_OR_RETURN(const std::string begun, context_.ask(access_, control::ImportBeginRequest{import_}));
    ASSIGN_OR_RETURN(const volume::VolumeInfo partial, control::read_volume(begun));
    import_.partial_id = partial.id;
    auto done = fill();
    display_.finish();
    if (done) done = ask_when_free(context_, access_, control::ImportFinishRequest{import_});
    if (done) return {};
    // The write that was refused tells nothing of the volume that it is for.
    if (done.error().code == Errc::no_space)
      done.error().what += fmt::format("; volume {} has a quota, or the store is full", import_.volume);
    const auto removed =
        ask_when_free(context_, access_,
                      control::RemoveRequest{.name = import_.partial, .now = true, .id = import_.partial_id});
    if (!removed && removed.error().code != Errc::not_found) {
      done.error().what += fmt::format("; and volume {} is left: {}", import_.partial, removed.error().what);
    }
    return done;
  }

 private:
  // Whether an earlier import of the same stream was complete.
  Result<bool> has_result() {
    const auto result = context_.ask(access_, control::InfoRequest{import_.volume});
    if (!result && result.error().code == Errc::not_found) return false;
    RETURN_IF_ERROR(result);
    ASSIGN_OR_RETURN(const volume::VolumeInfo info, control::read_volume(*result));
    return import_.to && std::ranges::any_of(info.snapshots, [&](const volume::SnapshotInfo& snapshot) {
             return snapshot.name == import_.to->name && snapshot.id == import_.to->id;
           });
  }

  // Of an import that was killed; one that is at work keeps it busy.
  Result<void> remove_leftover() {
    auto removed =
        ask_when_free(context_, access_, control::RemoveRequest{.name = import_.partial, .now = true});
    if (!removed && removed.error().code != Errc::not_found) return removed;
    return {};
  }

  // Nothing counts before the stream's end has been verified.
  Result<void> fill() {
    ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access_, import_.partial));
    RETURN_IF_ERROR(check_own());
    while (true) {
      ASSIGN_OR_RETURN(backup::StreamRecord record, reader_.next());
      if (record.kind == backup::StreamRecord::Kind::end) break;
      const uint64_t end_bytes = record.offset_bytes + record.length_bytes;
      RETURN_IF_ERROR(record.kind == backup::StreamRecord::Kind::zero ? zero(disk, record)
                                                                      : write(disk, std::move(record)));
      display_.update(end_bytes, import_.options.size_bytes);
    }
    RETURN_IF_ERROR(disk.wait_below(1));
    return disk.flush();
  }

  // While it is open nobody removes it; before that, another import may have, and begun one of its own.
  Result<void> check_own() {
    ASSIGN_OR_RETURN(const std::string result, context_.ask(access_, control::InfoRequest{import_.partial}));
    ASSIGN_OR_RETURN(const volume::VolumeInfo partial, control::read_volume(result));
    if (partial.id == import_.partial_id) return {};
    return fail(Errc::conflict, fmt::format("another import-diff into {} is at work", import_.volume));
  }

  Result<void> write(NbdDisk& disk, backup::StreamRecord record) {
    RETURN_IF_ERROR(disk.wait_below(limits::kTransferRequestsInFlight));
    const auto data = std::make_shared<std::vector<std::byte>>(std::move(record.data));
    return disk.begin_write(record.offset_bytes, *data, [data](bool /*succeeded*/) {});
  }

  Result<void> zero(NbdDisk& disk, const backup::StreamRecord& record) {
    if (!import_.from) return {};  // the new volume has nothing yet
    uint64_t offset_bytes = record.offset_bytes;
    for (uint64_t left_bytes = record.length_bytes; left_bytes > 0;) {
      const uint64_t part_bytes = std::min(left_bytes, limits::kTransferZeroBytes);
      RETURN_IF_ERROR(disk.wait_below(limits::kTransferRequestsInFlight));
      RETURN_IF_ERROR(disk.begin_zero(offset_bytes, part_bytes, {}));
      offset_bytes += part_bytes;
      left_bytes -= part_bytes;
    }
    return {};
  }

  const Context& context_;
  StoreAccess access_;
  StreamFile input_;
  backup::StreamReader reader_;
  ProgressDisplay display_;
  volume::DiffImport import_;
};

}  // namespace

Result<void> import_diff(const Context& context, const ImportDiffArguments& arguments) {
  net::OwnedFd opened;
  int fd = STDIN_FILENO;
  if (arguments.file != "-") {
    opened = net::OwnedFd(::open(arguments.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened) return file_error("read", arguments.file, errno);
    fd = opened.get();
  }
  ASSIGN_OR_RETURN(StoreAccess access, context.open_store(StoreAccess::Missing::create));
  return ImportDiff(context, std::move(access), arguments, fd).run();
}

}  // namespace fdbnbd::cli
