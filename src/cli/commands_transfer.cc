#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/limits.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/nbd_disk.h"
#include "cli/progress.h"
#include "cli/qemu_image.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

// A session that has just ended may still count for a moment.
constexpr auto kSessionEndPatience = std::chrono::seconds(10);
constexpr auto kRetryDelay = std::chrono::milliseconds(20);

tl::unexpected<Error> file_error(std::string_view doing, const std::string& path, int error) {
  const Errc code = error == ENOENT                      ? Errc::not_found
                    : error == EACCES || error == EPERM  ? Errc::permission
                    : error == ENOSPC || error == EDQUOT ? Errc::no_space
                                                         : Errc::io;
  return fail(code, fmt::format("cannot {} {}: {}", doing, path, std::strerror(error)));
}

Result<NbdDisk> open_disk(StoreAccess& access, const std::string& name) {
  ASSIGN_OR_RETURN(control::Client client, access.connect());
  ASSIGN_OR_RETURN(net::OwnedFd socket, std::move(client).start_nbd());
  return NbdDisk::open(std::move(socket), name);
}

struct ImportArguments {
  std::string file;
  std::string volume;
  std::string format = "auto";
  std::optional<std::string> size;
  bool into = false;
  bool keep_partial = false;
};

// What is imported.
struct ImportSource {
  net::OwnedFd opened;  // closed in the end; stdin is not
  int fd = STDIN_FILENO;
  std::string format = "raw";
  std::optional<uint64_t> size_bytes;  // not known of a pipe
};

Result<ImportSource> open_source(const ImportArguments& arguments) {
  ImportSource source;
  if (arguments.file != "-") {
    source.opened = net::OwnedFd(::open(arguments.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!source.opened) return file_error("read", arguments.file, errno);
    source.fd = source.opened.get();
  }
  struct stat status{};
  if (::fstat(source.fd, &status) != 0) return file_error("read", arguments.file, errno);
  if (S_ISDIR(status.st_mode)) return file_error("read", arguments.file, EISDIR);
  const bool can_seek = S_ISREG(status.st_mode) || S_ISBLK(status.st_mode);
  if (arguments.format != "auto") {
    source.format = arguments.format;
  } else if (can_seek && arguments.file != "-") {
    std::array<std::byte, kImageMagicBytes> beginning{};
    const ssize_t count = ::pread(source.fd, beginning.data(), beginning.size(), 0);
    if (count < 0) return file_error("read", arguments.file, errno);
    source.format = detect_image_format(ByteView(beginning).first(static_cast<size_t>(count)));
  }
  if (source.format != "raw") {
    if (arguments.file == "-") {
      return fail(Errc::invalid,
                  fmt::format("an image in format {} cannot come from stdin; name the file", source.format));
    }
    ASSIGN_OR_RETURN(source.size_bytes, qemu_image_size(arguments.file, source.format));
  } else if (can_seek) {
    const off_t end = ::lseek(source.fd, 0, SEEK_END);
    if (end < 0) return file_error("read", arguments.file, errno);
    source.size_bytes = static_cast<uint64_t>(end);
  }
  if (source.size_bytes == 0U)
    return fail(Errc::invalid, fmt::format("{} is empty: there is nothing to import", arguments.file));
  return source;
}

uint64_t round_up_to_granularity(uint64_t bytes) {
  constexpr uint64_t kUnit = limits::kSizeGranularityBytes;
  return (bytes + kUnit - 1) / kUnit * kUnit;
}

class Import {
 public:
  Import(const ImportArguments& arguments, const Context& context, StoreAccess access)
      : arguments_(arguments),
        context_(context),
        access_(std::move(access)),
        display_("Importing " + arguments.file, context.shows_bar()) {}

  Result<void> run(ImportSource source) {
    return arguments_.into ? run_into(std::move(source)) : run_new(std::move(source));
  }

 private:
  Result<void> run_into(ImportSource source) {
    ASSIGN_OR_RETURN(const std::string result,
                     context_.ask(access_, control::InfoRequest{arguments_.volume}));
    ASSIGN_OR_RETURN(const volume::VolumeInfo volume, control::read_volume(result));
    if (source.size_bytes && *source.size_bytes > volume.size_bytes) {
      return fail(Errc::invalid,
                  fmt::format("{} has {} bytes, volume {} only {}; resize that first", arguments_.file,
                              *source.size_bytes, volume.name, volume.size_bytes));
    }
    RETURN_IF_ERROR(copy(source, arguments_.volume, false));
    return {};
  }

  // The volume is filled under another name first, so that nobody takes half of it for all.
  Result<void> run_new(ImportSource source) {
    const auto there = context_.ask(access_, control::InfoRequest{arguments_.volume});
    if (there) {
      return fail(Errc::exists,
                  fmt::format("volume {} exists already; --into writes over it", arguments_.volume));
    }
    if (there.error().code != Errc::not_found) return tl::unexpected(there.error());

    // A pipe's volume is cut to size in the end.
    uint64_t size_bytes =
        source.size_bytes ? round_up_to_granularity(*source.size_bytes) : limits::kMaxVolumeBytes;
    if (arguments_.size) {
      ASSIGN_OR_RETURN(size_bytes, parse_size(*arguments_.size));
      if (source.size_bytes && size_bytes < *source.size_bytes) {
        return fail(Errc::invalid, fmt::format("{} has {} bytes, more than --size {}", arguments_.file,
                                               *source.size_bytes, *arguments_.size));
      }
    }
    static constexpr std::string_view kSuffix = ".importing";
    const std::string partial =
        std::string(utf8_prefix(arguments_.volume, limits::kMaxVolumeNameBytes - kSuffix.size())) +
        std::string(kSuffix);
    RETURN_IF_ERROR(create_partial(partial, size_bytes));
    auto done = fill(source, partial);
    if (done) return {};
    if (arguments_.keep_partial) {
      done.error().what += fmt::format("; what was copied is in volume {}", partial);
    } else if (const auto removed = when_free(control::RemoveRequest{partial}); !removed) {
      done.error().what += fmt::format("; and volume {} is left: {}", partial, removed.error().what);
    }
    return done;
  }

  Result<void> create_partial(const std::string& name, uint64_t size_bytes) {
    control::CreateRequest create{.name = name,
                                  .size_bytes = size_bytes,
                                  .block_bytes = volume::CreateOptions{}.block_bytes,
                                  .compression = volume::CreateOptions{}.compression};
    auto created = context_.ask(access_, create);
    if (!created && created.error().code == Errc::exists) {
      // Left by an import that was killed, or another one at work, which keeps it busy.
      RETURN_IF_ERROR(context_.ask(access_, control::RemoveRequest{name}));
      created = context_.ask(access_, create);
    }
    RETURN_IF_ERROR(created);
    return {};
  }

  Result<void> fill(const ImportSource& source, const std::string& partial) {
    ASSIGN_OR_RETURN(const uint64_t copied_bytes, copy(source, partial, true));
    if (!source.size_bytes && !arguments_.size) {
      if (copied_bytes == 0) return fail(Errc::invalid, "stdin is empty: there is nothing to import");
      RETURN_IF_ERROR(when_free(control::ResizeRequest{
          .name = partial, .size_bytes = round_up_to_granularity(copied_bytes), .allow_shrink = true}));
    }
    RETURN_IF_ERROR(
        context_.ask(access_, control::RenameRequest{.name = partial, .new_name = arguments_.volume}));
    return {};
  }

  // How many bytes; of an image that is not raw, 0.
  Result<uint64_t> copy(const ImportSource& source, const std::string& volume, bool volume_is_blank) {
    uint64_t copied_bytes = 0;
    if (source.format != "raw") {
      const auto connect = [this]() -> Result<net::OwnedFd> {
        ASSIGN_OR_RETURN(control::Client client, access_.connect());
        return std::move(client).start_nbd();
      };
      RETURN_IF_ERROR(qemu_convert({.path = arguments_.file,
                                    .format = source.format,
                                    .volume = volume,
                                    .volume_is_blank = volume_is_blank},
                                   connect, display_));
      ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access_, volume));
      RETURN_IF_ERROR(disk.flush());
    } else {
      ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access_, volume));
      if (disk.read_only()) return fail(Errc::read_only, fmt::format("volume {} is read-only", volume));
      ASSIGN_OR_RETURN(copied_bytes,
                       import_bytes(source.fd, disk, {.volume_is_blank = volume_is_blank}, display_));
    }
    display_.finish();
    return copied_bytes;
  }

  Result<void> when_free(const control::Request& request) {
    const auto deadline = std::chrono::steady_clock::now() + kSessionEndPatience;
    while (true) {
      auto done = context_.ask(access_, request);
      if (done) return {};
      if (done.error().code != Errc::busy || std::chrono::steady_clock::now() >= deadline)
        return propagate(done);
      std::this_thread::sleep_for(kRetryDelay);
    }
  }

  const ImportArguments& arguments_;
  const Context& context_;
  StoreAccess access_;
  ProgressDisplay display_;
};

void add_import(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* verb = app.add_subcommand(
      "import", "Make a volume from a file, or from stdin; the volume appears when it is complete");
  verb->add_option("FILE", arguments->file, "A raw image, one that qemu-img can read, or - for stdin")
      ->required();
  verb->add_option("VOL", arguments->volume, "The new volume")->required();
  verb->add_option("--format", arguments->format, "raw, qcow2, vmdk, vdi, vhdx, vpc; auto looks at the file")
      ->check(CLI::IsMember({"auto", "raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"}))
      ->capture_default_str();
  auto* const size = verb->add_option("--size", arguments->size, "Make the volume larger than the data");
  verb->add_flag("--into", arguments->into, "Write over the beginning of a volume that is there")
      ->excludes(size);
  verb->add_flag("--keep-partial", arguments->keep_partial,
                 "On a failure keep what was copied, as VOL.importing");
  verb->callback([arguments, &context] {
    context.run = [arguments, &context]() -> Result<void> {
      watch_interrupts();
      ASSIGN_OR_RETURN(ImportSource source, open_source(*arguments));
      ASSIGN_OR_RETURN(
          StoreAccess access,
          context.open_store(arguments->into ? StoreAccess::Missing::fail : StoreAccess::Missing::create));
      return Import(*arguments, context, std::move(access)).run(std::move(source));
    };
  });
}

struct ExportArguments {
  std::string volume;
  std::string file;
  bool force = false;
};

// Where an export goes; a file that was made for it goes away again where it fails.
class Target {
 public:
  explicit Target(const ExportArguments& arguments) : arguments_(arguments) {}
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  ~Target() {
    if (made_ && !complete_) ::unlink(arguments_.file.c_str());
  }

  Result<void> open(uint64_t size_bytes) {
    if (arguments_.file == "-") return {};
    const std::string& path = arguments_.file;
    opened_ = net::OwnedFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    made_ = static_cast<bool>(opened_);
    if (!opened_ && errno == EEXIST) opened_ = net::OwnedFd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!opened_) return file_error("write", path, errno);
    fd_ = opened_.get();
    struct stat status{};
    if (::fstat(fd_, &status) != 0) return file_error("write", path, errno);
    if (!arguments_.force && ((S_ISREG(status.st_mode) && status.st_size > 0) || S_ISBLK(status.st_mode))) {
      return fail(Errc::exists,
                  fmt::format("{} {}; --force writes over it", path,
                              S_ISBLK(status.st_mode) ? "is a block device" : "exists and is not empty"));
    }
    if (S_ISBLK(status.st_mode)) {
      const off_t end = ::lseek(fd_, 0, SEEK_END);
      if (end < 0 || ::lseek(fd_, 0, SEEK_SET) < 0) return file_error("write", path, errno);
      if (static_cast<uint64_t>(end) < size_bytes) {
        return fail(Errc::no_space, fmt::format("{} has {} bytes, the volume {}", path, end, size_bytes));
      }
    }
    if (S_ISREG(status.st_mode)) {
      leave_holes_ = true;
      if (::ftruncate(fd_, 0) != 0 || ::ftruncate(fd_, static_cast<off_t>(size_bytes)) != 0) {
        return file_error("write", path, errno);
      }
    }
    return {};
  }

  Result<void> finish() {
    // Pipes and the like have nothing to sync.
    if (opened_ && ::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS)
      return file_error("write", arguments_.file, errno);
    complete_ = true;
    return {};
  }

  int fd() const { return fd_; }
  bool leave_holes() const { return leave_holes_; }

 private:
  const ExportArguments& arguments_;
  net::OwnedFd opened_;
  int fd_ = STDOUT_FILENO;
  bool made_ = false;
  bool complete_ = false;
  bool leave_holes_ = false;
};

void add_export(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* verb =
      app.add_subcommand("export", "Copy a volume to a raw file with holes, to a device, or to stdout");
  verb->add_option("VOL", arguments->volume, "The volume")->required();
  verb->add_option("FILE", arguments->file, "The file, or - for stdout")->required();
  verb->add_flag("--force", arguments->force, "Write over a file that is not empty, or a block device");
  verb->callback([arguments, &context] {
    context.run = [arguments, &context]() -> Result<void> {
      if (arguments->file == "-" && isatty(STDOUT_FILENO) == 1) {
        return fail(Errc::invalid, "stdout is a terminal; send it to a file or a program");
      }
      watch_interrupts();
      ASSIGN_OR_RETURN(StoreAccess access, context.open_store(StoreAccess::Missing::fail));
      // For its error text, and so that no session begins on a volume that is not there.
      RETURN_IF_ERROR(context.ask(access, control::InfoRequest{arguments->volume}));
      ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access, arguments->volume));
      Target target(*arguments);
      RETURN_IF_ERROR(target.open(disk.size_bytes()));
      ProgressDisplay display("Exporting " + arguments->volume, context.shows_bar());
      RETURN_IF_ERROR(export_bytes(disk, target.fd(), {.leave_holes = target.leave_holes()}, display));
      return target.finish();
    };
  });
}

}  // namespace

void add_transfer_commands(CLI::App& app, Context& context) {
  add_import(app, context);
  add_export(app, context);
}

}  // namespace fdbnbd::cli
