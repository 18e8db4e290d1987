#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/legacy_source.h"
#include "cli/nbd_disk.h"
#include "cli/partial_volume.h"
#include "cli/progress.h"
#include "cli/qemu_image.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

struct ImportArguments {
  std::string file;
  std::string volume;
  // Of an older server's disk: the cluster file and the name; else empty.
  std::vector<std::string> py_disk;
  std::vector<std::string> array_disk;
  std::string format = "auto";
  std::optional<std::string> size;
  bool into = false;
  bool keep_partial = false;
};

// What is imported.
struct ImportSource {
  std::string name;     // for people
  net::OwnedFd opened;  // closed in the end; stdin is not
  int fd = STDIN_FILENO;
  std::string format = "raw";
  std::optional<uint64_t> size_bytes;         // not known of a pipe
  std::unique_ptr<LegacySource> legacy_disk;  // where this is set, no file is read
};

Result<ImportSource> open_file(const ImportArguments& arguments) {
  ImportSource source;
  source.name = arguments.file;
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

Result<ImportSource> open_source(const Context& context, const ImportArguments& arguments) {
  const bool is_py = !arguments.py_disk.empty();
  if (!is_py && arguments.array_disk.empty()) return open_file(arguments);
  const auto& cluster_and_name = is_py ? arguments.py_disk : arguments.array_disk;
  ImportSource source;
  source.name = cluster_and_name.back();
  ASSIGN_OR_RETURN(source.legacy_disk,
                   LegacySource::open(context, is_py ? LegacySource::Layout::py : LegacySource::Layout::array,
                                      cluster_and_name.front(), cluster_and_name.back()));
  source.size_bytes = source.legacy_disk->size_bytes();
  return source;
}

uint64_t round_up_to_granularity(uint64_t bytes) {
  constexpr uint64_t kUnit = limits::kSizeGranularityBytes;
  return (bytes + kUnit - 1) / kUnit * kUnit;
}

class Import {
 public:
  Import(const ImportArguments& arguments, const Context& context, ImportSource source, StoreAccess access)
      : arguments_(arguments),
        context_(context),
        source_(std::move(source)),
        access_(std::move(access)),
        display_("Importing " + source_.name, context.shows_bar()) {}

  Result<void> run() { return arguments_.into ? run_into() : run_new(); }

 private:
  Result<void> run_into() {
    ASSIGN_OR_RETURN(const std::string result,
                     context_.ask(access_, control::InfoRequest{arguments_.volume}));
    ASSIGN_OR_RETURN(const volume::VolumeInfo volume, control::read_volume(result));
    if (source_.size_bytes && *source_.size_bytes > volume.size_bytes) {
      return fail(Errc::invalid,
                  fmt::format("{} has {} bytes, volume {} only {}; resize that first", source_.name,
                              *source_.size_bytes, volume.name, volume.size_bytes));
    }
    RETURN_IF_ERROR(copy(arguments_.volume, false));
    return {};
  }

  // The volume is filled under another name first, so that nobody takes half of it for all.
  Result<void> run_new() {
    const auto there = context_.ask(access_, control::InfoRequest{arguments_.volume});
    if (there) {
      return fail(Errc::exists,
                  fmt::format("volume {} exists already; --into writes over it", arguments_.volume));
    }
    if (there.error().code != Errc::not_found) return tl::unexpected(there.error());

    // A pipe's volume is cut to size in the end.
    uint64_t size_bytes =
        source_.size_bytes ? round_up_to_granularity(*source_.size_bytes) : limits::kMaxVolumeBytes;
    if (arguments_.size) {
      ASSIGN_OR_RETURN(size_bytes, parse_size(*arguments_.size));
      if (source_.size_bytes && size_bytes < *source_.size_bytes) {
        return fail(Errc::invalid, fmt::format("{} has {} bytes, more than --size {}", source_.name,
                                               *source_.size_bytes, *arguments_.size));
      }
    }
    const std::string partial = partial_name_of(arguments_.volume);
    RETURN_IF_ERROR(create_partial(partial, size_bytes));
    auto done = fill(partial);
    if (done) return {};
    if (arguments_.keep_partial) {
      done.error().what += fmt::format("; what was copied is in volume {}", partial);
    } else if (const auto removed =
                   ask_when_free(context_, access_, control::RemoveRequest{.name = partial, .now = true});
               !removed) {
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
      RETURN_IF_ERROR(context_.ask(access_, control::RemoveRequest{.name = name, .now = true}));
      created = context_.ask(access_, create);
    }
    RETURN_IF_ERROR(created);
    return {};
  }

  Result<void> fill(const std::string& partial) {
    ASSIGN_OR_RETURN(const uint64_t copied_bytes, copy(partial, true));
    if (!source_.size_bytes && !arguments_.size) {
      if (copied_bytes == 0) return fail(Errc::invalid, "stdin is empty: there is nothing to import");
      RETURN_IF_ERROR(ask_when_free(
          context_, access_,
          control::ResizeRequest{
              .name = partial, .size_bytes = round_up_to_granularity(copied_bytes), .allow_shrink = true}));
    }
    RETURN_IF_ERROR(
        context_.ask(access_, control::RenameRequest{.name = partial, .new_name = arguments_.volume}));
    return {};
  }

  // How many bytes; of an image that is not raw, 0.
  Result<uint64_t> copy(const std::string& volume, bool volume_is_blank) {
    uint64_t copied_bytes = 0;
    if (source_.format != "raw") {
      const auto connect = [this]() -> Result<net::OwnedFd> {
        ASSIGN_OR_RETURN(control::Client client, access_.connect());
        return std::move(client).start_nbd();
      };
      RETURN_IF_ERROR(qemu_convert({.path = arguments_.file,
                                    .format = source_.format,
                                    .volume = volume,
                                    .volume_is_blank = volume_is_blank},
                                   connect, display_));
      ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access_, volume));
      RETURN_IF_ERROR(disk.flush());
    } else {
      ASSIGN_OR_RETURN(NbdDisk disk, open_disk(access_, volume));
      if (disk.read_only()) return fail(Errc::read_only, fmt::format("volume {} is read-only", volume));
      const ImportOptions options{.volume_is_blank = volume_is_blank,
                                  .source_name = source_.name == "-" ? std::string("stdin") : source_.name};
      ASSIGN_OR_RETURN(copied_bytes,
                       source_.legacy_disk
                           ? import_bytes(*source_.legacy_disk, *source_.size_bytes, disk, options, display_)
                           : import_bytes(source_.fd, disk, options, display_));
    }
    display_.finish();
    return copied_bytes;
  }

  const ImportArguments& arguments_;
  const Context& context_;
  ImportSource source_;
  StoreAccess access_;
  ProgressDisplay display_;
};

// The positional arguments of an import from a file, or from an older server's disk.
void check_positionals(ImportArguments& arguments) {
  const auto& disk = arguments.py_disk.empty() ? arguments.array_disk : arguments.py_disk;
  if (disk.empty()) {
    if (arguments.file.empty()) throw CLI::RequiredError("FILE");
    if (arguments.volume.empty()) throw CLI::RequiredError("VOL");
    return;
  }
  if (!arguments.volume.empty()) throw CLI::ExtrasError({arguments.volume});
  arguments.volume = arguments.file.empty() ? disk.back() : std::exchange(arguments.file, {});
}

}  // namespace

void add_import_command(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* verb = app.add_subcommand("import",
                                      "Make a volume from a file, from stdin, or from an older server's "
                                      "disk; it appears when it is complete");
  verb->add_option("FILE", arguments->file, "A raw image, one that qemu-img can read, or - for stdin");
  verb->add_option("VOL", arguments->volume, "The new volume");
  auto* const py_disk = verb->add_option("--from-fdb-nbd-py", arguments->py_disk,
                                         "Instead of FILE: the disk NAME of fdb-nbd.py in the cluster of "
                                         "this cluster file; VOL is NAME where it "
                                         "is not given. Stop that server first");
  auto* const array_disk =
      verb->add_option("--from-spullara-nbd", arguments->array_disk,
                       "Instead of FILE: the volume or snapshot NAME of spullara/nbd, in the same way");
  for (CLI::Option* option : {py_disk, array_disk})
    option->type_size(2)->expected(1)->allow_extra_args(false)->type_name("CLUSTER NAME");
  py_disk->excludes(array_disk);
  verb->add_option("--format", arguments->format, "raw, qcow2, vmdk, vdi, vhdx, vpc; auto looks at the file")
      ->check(CLI::IsMember({"auto", "raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"}))
      ->capture_default_str()
      ->excludes(py_disk)
      ->excludes(array_disk);
  auto* const size = verb->add_option("--size", arguments->size, "Make the volume larger than the data");
  verb->add_flag("--into", arguments->into, "Write over the beginning of a volume that is there")
      ->excludes(size);
  verb->add_flag("--keep-partial", arguments->keep_partial,
                 "On a failure keep what was copied, as VOL.importing");
  verb->callback([arguments, &context] {
    check_positionals(*arguments);
    context.run = [arguments, &context]() -> Result<void> {
      watch_interrupts();
      ASSIGN_OR_RETURN(ImportSource source, open_source(context, *arguments));
      ASSIGN_OR_RETURN(
          StoreAccess access,
          context.open_store(arguments->into ? StoreAccess::Missing::fail : StoreAccess::Missing::create));
      return Import(*arguments, context, std::move(source), std::move(access)).run();
    };
  });
}

}  // namespace fdbnbd::cli
