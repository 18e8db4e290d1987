#include "cli/qemu_image.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/limits.h"

extern char** environ;

namespace fdbnbd::cli {

namespace {

constexpr char kProgram[] = "qemu-img";
constexpr size_t kRelayBytes = 256 * limits::kKiB;
constexpr size_t kMaxErrorTextBytes = 4 * limits::kKiB;

tl::unexpected<Error> system_error(std::string_view what) {
  return fail(Errc::io, fmt::format("{}: {}", what, std::strerror(errno)));
}

// A running program whose standard output, and separately its errors, are read here.
class ChildProcess {
 public:
  static Result<std::unique_ptr<ChildProcess>> start(std::vector<std::string> arguments) {
    std::array<int, 2> out{};
    std::array<int, 2> err{};
    if (::pipe2(out.data(), O_CLOEXEC) != 0) return system_error("cannot make a pipe");
    net::OwnedFd out_read(out[0]);
    const net::OwnedFd out_write(out[1]);
    if (::pipe2(err.data(), O_CLOEXEC) != 0) return system_error("cannot make a pipe");
    net::OwnedFd err_read(err[0]);
    const net::OwnedFd err_write(err[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out_write.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err_write.get(), STDERR_FILENO);
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t pid = -1;
    const int error = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == ENOENT) {
      return fail(Errc::not_supported,
                  fmt::format("this image format needs {}; install the package qemu-utils", kProgram));
    }
    if (error != 0) return fail(Errc::io, fmt::format("cannot run {}: {}", kProgram, std::strerror(error)));
    return std::unique_ptr<ChildProcess>(new ChildProcess(pid, std::move(out_read), std::move(err_read)));
  }

  ~ChildProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGTERM);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  // Reads to the end of both, gives what comes on stdout to `on_output`, and waits. Errc::io with what the
  // program said where it failed.
  Result<void> finish(FunctionRef<void(std::string_view)> on_output) {
    std::string errors;
    std::array<pollfd, 2> fds = {pollfd{.fd = out_.get(), .events = POLLIN, .revents = 0},
                                 pollfd{.fd = err_.get(), .events = POLLIN, .revents = 0}};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
      if (interrupted()) return fail(Errc::cancelled, "interrupted");
      if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return system_error("poll");
      for (pollfd& one : fds) {
        if (one.fd < 0 || one.revents == 0) continue;
        std::array<char, 4096> text{};
        const ssize_t count = ::read(one.fd, text.data(), text.size());
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
          one.fd = -1;
        } else if (&one == fds.data()) {
          on_output({text.data(), static_cast<size_t>(count)});
        } else if (errors.size() < kMaxErrorTextBytes) {
          errors.append(text.data(), static_cast<size_t>(count));
        }
      }
    }
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    while (errors.ends_with('\n')) errors.pop_back();
    return fail(Errc::io, errors.empty() ? fmt::format("{} failed", kProgram) : errors);
  }

 private:
  ChildProcess(pid_t pid, net::OwnedFd out, net::OwnedFd err)
      : pid_(pid), out_(std::move(out)), err_(std::move(err)) {}

  pid_t pid_;
  net::OwnedFd out_;
  net::OwnedFd err_;
};

// A Unix socket in a private directory, through which another program reaches one NBD connection that only
// this one can make.
class Relay {
 public:
  using Connect = UniqueFunction<Result<net::OwnedFd>()>;

  static Result<std::unique_ptr<Relay>> start(Connect connect) {
    std::error_code no_place;
    std::string directory = (std::filesystem::temp_directory_path(no_place) / "fdb-nbd-XXXXXX").string();
    if (no_place) return fail(Errc::io, "there is no directory for temporary files: " + no_place.message());
    if (::mkdtemp(directory.data()) == nullptr) return system_error("cannot make a temporary directory");
    std::unique_ptr<Relay> relay(new Relay(std::move(directory), std::move(connect)));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (relay->path().size() >= sizeof(address.sun_path))
      return fail(Errc::io, "the name of the temporary directory is too long");
    relay->path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    relay->listener_ = net::OwnedFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!relay->listener_ ||
        ::bind(relay->listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(relay->listener_.get(), 1) != 0) {
      return system_error("cannot listen in " + relay->directory_);
    }
    relay->thread_ = std::thread([raw = relay.get()] { raw->run(); });
    return relay;
  }

  ~Relay() {
    stop();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  // Once its user has ended. error() is valid from then on.
  void stop() {
    if (listener_) ::shutdown(listener_.get(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
  }

  std::string path() const { return directory_ + "/nbd.sock"; }
  // Why there was no connection.
  const std::optional<Error>& error() const { return error_; }

 private:
  Relay(std::string directory, Connect connect)
      : directory_(std::move(directory)), connect_(std::move(connect)) {}

  void run() {
    while (true) {
      const net::OwnedFd program(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!program) return;
      auto server = connect_();
      if (!server) {
        error_ = std::move(server.error());
        continue;
      }
      std::thread answers([&] { copy(server->get(), program.get()); });
      copy(program.get(), server->get());
      answers.join();
    }
  }

  // Until the end of what comes, which is passed on.
  static void copy(int from, int to) {
    std::vector<char> bytes(kRelayBytes);
    while (true) {
      const ssize_t count = ::recv(from, bytes.data(), bytes.size(), 0);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) break;
      ssize_t sent = 0;
      while (sent < count) {
        const ssize_t step = ::send(to, bytes.data() + sent, static_cast<size_t>(count - sent), MSG_NOSIGNAL);
        if (step < 0 && errno == EINTR) continue;
        if (step < 0) break;
        sent += step;
      }
      if (sent < count) break;
    }
    ::shutdown(to, SHUT_WR);
    ::shutdown(from, SHUT_RD);
  }

  const std::string directory_;
  Connect connect_;
  net::OwnedFd listener_;
  std::thread thread_;
  std::optional<Error> error_;  // the thread's, until it is joined
};

std::string percent_encoded(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.' || c == '~' || c == '/') {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", byte);
    }
  }
  return encoded;
}

// The last "(12.34/100%)" in what qemu-img -p has written.
std::optional<double> last_percentage(std::string_view text) {
  const auto end = text.rfind("/100%)");
  const auto begin = end == std::string_view::npos ? end : text.rfind('(', end);
  if (begin == std::string_view::npos) return std::nullopt;
  const std::string number(text.substr(begin + 1, end - begin - 1));
  char* rest = nullptr;
  const double value = std::strtod(number.c_str(), &rest);
  if (rest == number.c_str()) return std::nullopt;
  return value;
}

}  // namespace

std::string detect_image_format(ByteView beginning) {
  const std::string_view text = as_text(beginning);
  const auto has = [&](size_t offset, std::string_view magic) {
    return text.size() >= offset + magic.size() && text.substr(offset, magic.size()) == magic;
  };
  if (has(0, "QFI\xfb")) return "qcow2";
  if (has(0, "KDMV") || has(0, "COWD") || has(0, "# Disk DescriptorFile")) return "vmdk";
  if (has(0x40, "\x7f\x10\xda\xbe")) return "vdi";
  if (has(0, "vhdxfile")) return "vhdx";
  if (has(0, "conectix")) return "vpc";
  return "raw";
}

Result<uint64_t> qemu_image_size(const std::string& path, const std::string& format) {
  ASSIGN_OR_RETURN(const auto program,
                   ChildProcess::start({kProgram, "info", "--output=json", "-f", format, path}));
  std::string output;
  RETURN_IF_ERROR(program->finish([&](std::string_view text) { output += text; }));
  const auto json = nlohmann::json::parse(output, nullptr, false);
  const auto size = json.is_object() ? json.find("virtual-size") : json.end();
  if (!json.is_object() || size == json.end() || !size->is_number_unsigned()) {
    return fail(Errc::io, fmt::format("{} did not tell the size of {}", kProgram, path));
  }
  return size->get<uint64_t>();
}

Result<void> qemu_convert(const QemuConversion& conversion, UniqueFunction<Result<net::OwnedFd>()> connect,
                          ProgressDisplay& display) {
  ASSIGN_OR_RETURN(const uint64_t size_bytes, qemu_image_size(conversion.path, conversion.format));
  ASSIGN_OR_RETURN(auto relay, Relay::start(std::move(connect)));
  std::vector<std::string> arguments = {kProgram, "convert",         "-p", "-n", "-W", "-m", "16",
                                        "-f",     conversion.format, "-O", "raw"};
  if (conversion.volume_is_blank) arguments.emplace_back("--target-is-zero");
  arguments.push_back(conversion.path);
  arguments.push_back(fmt::format("nbd+unix:///{}?socket={}", percent_encoded(conversion.volume),
                                  percent_encoded(relay->path())));
  auto program = ChildProcess::start(std::move(arguments));
  if (!program) return propagate(program);
  std::string recent;
  auto finished = (*program)->finish([&](std::string_view text) {
    recent += text;
    if (const auto percentage = last_percentage(recent)) {
      display.update(static_cast<uint64_t>(*percentage / 100 * static_cast<double>(size_bytes)), size_bytes);
      recent.clear();
    }
  });
  program->reset();
  relay->stop();
  if (!finished && relay->error()) return tl::unexpected(*relay->error());
  return finished;
}

}  // namespace fdbnbd::cli
