#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/nbd_disk.h"
#include "cli/progress.h"
#include "cli/transfer.h"

namespace fdbnbd::cli {

namespace {

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
  CLI::App* verb = app.add_subcommand(
      "export", "Copy a volume or a snapshot to a raw file with holes, to a device, or to stdout");
  verb->add_option("VOL[@SNAP]", arguments->volume, "The volume or snapshot")->required();
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
      RETURN_IF_ERROR(
          export_bytes(disk, target.fd(),
                       {.leave_holes = target.leave_holes(),
                        .target_name = arguments->file == "-" ? std::string("stdout") : arguments->file},
                       display));
      return target.finish();
    };
  });
}

}  // namespace

void add_transfer_commands(CLI::App& app, Context& context) {
  add_import_command(app, context);
  add_export(app, context);
}

}  // namespace fdbnbd::cli
