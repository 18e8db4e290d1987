#include <fcntl.h>
#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <memory>
#include <utility>

#include "attach/attachment.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "net/dial.h"
#include "net/service_manager.h"
#include "net/signals.h"

namespace fdbnbd::cli {

namespace {

struct AttachArguments {
  std::string volume;
  std::string device;
  std::vector<std::string> servers;
  attach::AttachOptions options{.index = {},
                                .connections_count = limits::kDefaultDeviceConnections,
                                .read_only = false,
                                .timeouts = {.request_seconds = limits::kDefaultRequestTimeoutSeconds,
                                             .dead_seconds = limits::kDefaultDeadTimeoutSeconds}};
  bool foreground = false;
};

struct DetachArguments {
  std::string target;
  bool force = false;
};

Result<void> need_root(std::string_view verb) {
  if (geteuid() == 0) return {};
  return fail(Errc::permission, fmt::format("{} needs root: sudo fdb-nbd {} ...", verb, verb));
}

// Connects through a server's control socket, and makes sure that the volume is still the same one.
class ControlConnector final : public attach::Connector {
 public:
  ControlConnector(std::string path, const std::string& export_name)
      : path_(std::move(path)), volume_(export_name.substr(0, export_name.find('@'))) {}

  Result<net::OwnedFd> connect() override {
    auto socket = control::connect_control_socket(path_);
    if (!socket) {
      const Errc code = socket.error().code == Errc::not_found ? Errc::unavailable : socket.error().code;
      return fail(code, socket.error().what +
                            "; name a server with --connect tcp://HOST:PORT, or start one: fdb-nbd serve");
    }
    net::set_patience(socket->get(), limits::kServerPatience);
    control::Client client(std::move(*socket));
    ASSIGN_OR_RETURN(const std::string result, client.call(control::InfoRequest{volume_}));
    ASSIGN_OR_RETURN(const volume::VolumeInfo volume, control::read_volume(result));
    if (!volume_id_) volume_id_ = volume.id;
    if (*volume_id_ != volume.id) {
      return fail(Errc::differs,
                  fmt::format("volume {} is another one than the one that was attached", volume_));
    }
    return std::move(client).start_nbd();
  }

  std::string name() const override { return path_; }

 private:
  const std::string path_;
  const std::string volume_;
  std::optional<uint64_t> volume_id_;
};

// The control socket of the server that has the store.
Result<std::string> control_path_of(const Context& context) {
  ASSIGN_OR_RETURN(const config::Config file, context.config());
  ASSIGN_OR_RETURN(const config::StoreUrl store, context.store(file));
  switch (store.kind) {
    case config::StoreUrl::Kind::control:
      return store.path;
    case config::StoreUrl::Kind::rocksdb:
      return config::control_socket_in(store.path);
    case config::StoreUrl::Kind::fdb:
    case config::StoreUrl::Kind::memory:
      break;
  }
  return fail(Errc::invalid, fmt::format("the store {} does not tell where its server is; say --connect "
                                         "tcp://HOST:PORT, or --store control:SOCKET",
                                         config::to_string(store)));
}

Result<std::vector<std::unique_ptr<attach::Connector>>> make_connectors(const Context& context,
                                                                        const AttachArguments& arguments) {
  std::vector<std::unique_ptr<attach::Connector>> connectors;
  for (const std::string& server : arguments.servers) {
    ASSIGN_OR_RETURN(const net::Endpoint endpoint, net::parse_endpoint(server));
    connectors.push_back(attach::make_connector(endpoint));
  }
  if (connectors.empty()) {
    ASSIGN_OR_RETURN(std::string path, control_path_of(context));
    connectors.push_back(std::make_unique<ControlConnector>(std::move(path), arguments.volume));
  }
  return connectors;
}

// What the supervisor tells the process that started it, in one message: the device, or an error as its code
// and its text.
struct StartMessage {
  Errc code;
  bool attached;
  std::array<char, 1000> text;
};

StartMessage make_message(bool attached, Errc code, std::string_view text) {
  StartMessage message{.code = code, .attached = attached, .text = {}};
  text.substr(0, message.text.size() - 1).copy(message.text.data(), message.text.size() - 1);
  return message;
}

void tell(int socket, const StartMessage& message) {
  (void)::send(socket, &message, sizeof message, MSG_NOSIGNAL);
}

// A daemon's descriptors: what it logs goes to the kernel's log, where the NBD client's own messages are.
void leave_terminal() {
  (void)::chdir("/");
  const net::OwnedFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const net::OwnedFd log(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  (void)::dup2(null.get(), STDIN_FILENO);
  (void)::dup2(null.get(), STDOUT_FILENO);
  (void)::dup2(log ? log.get() : null.get(), STDERR_FILENO);
}

Result<void> supervise_in_background(attach::Servers& servers, const AttachArguments& arguments,
                                     int starter) {
  ::setsid();
  // What the caller has open is not for a daemon to keep.
  (void)::close_range(STDERR_FILENO + 1, static_cast<unsigned>(starter) - 1, 0);
  (void)::close_range(static_cast<unsigned>(starter) + 1, UINT_MAX, 0);
  auto attachment = attach::Attachment::start(servers, arguments.options);
  if (!attachment) {
    tell(starter, make_message(false, attachment.error().code, attachment.error().what));
    return {};  // the starter prints it
  }
  leave_terminal();
  tell(starter, make_message(true, Errc::io, attach::device_path((*attachment)->index())));
  ::shutdown(starter, SHUT_RDWR);
  (*attachment)->supervise();
  return {};
}

Result<void> report_start(int supervisor) {
  StartMessage message{};
  ssize_t count = 0;
  do {
    count = ::recv(supervisor, &message, sizeof message, 0);
  } while (count < 0 && errno == EINTR);
  if (count != sizeof message)
    return fail(Errc::io, "the supervisor ended before it had attached the volume");
  if (!message.attached) return fail(message.code, message.text.data());
  print(fmt::format("{}\n", message.text.data()));
  return {};
}

Result<void> run_attach(const Context& context, AttachArguments& arguments) {
  if (!arguments.device.empty()) {
    ASSIGN_OR_RETURN(arguments.options.index, attach::parse_device_path(arguments.device));
  }
  ASSIGN_OR_RETURN(auto connectors, make_connectors(context, arguments));
  RETURN_IF_ERROR(need_root("attach"));
  attach::Servers servers(std::move(connectors), arguments.volume);
  net::block_signals({SIGTERM, SIGINT, SIGHUP});
  log::set_level(log::Level::info);
  if (arguments.foreground) {
    ASSIGN_OR_RETURN(const auto attachment, attach::Attachment::start(servers, arguments.options));
    print(fmt::format("{}\n", attach::device_path(attachment->index())));
    RETURN_IF_ERROR(finish_output());
    net::notify_service_manager("READY=1");
    attachment->supervise();
    return {};
  }
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
    return fail(Errc::io, fmt::format("cannot make a socket: {}", std::strerror(errno)));
  net::OwnedFd mine(sockets[0]);
  net::OwnedFd of_supervisor(sockets[1]);
  // The supervisor attaches the volume itself, so that the kernel shows its process as the device's.
  const pid_t child = ::fork();
  if (child < 0) return fail(Errc::io, fmt::format("cannot start a process: {}", std::strerror(errno)));
  if (child == 0) {
    mine.reset();
    return supervise_in_background(servers, arguments, of_supervisor.get());
  }
  of_supervisor.reset();
  return report_start(mine.get());
}

Result<uint32_t> find_target(const std::string& target) {
  if (target.starts_with("/")) return attach::parse_device_path(target);
  std::optional<uint32_t> index;
  for (const attach::AttachedDevice& device : attach::Devices().list()) {
    if (attach::volume_of(device.backend) != target) continue;
    if (index) {
      return fail(Errc::busy, fmt::format("volume {} is attached as {} and {}: name the device", target,
                                          attach::device_path(*index), attach::device_path(device.index)));
    }
    index = device.index;
  }
  if (!index) return fail(Errc::not_found, fmt::format("volume {} is not attached to any device", target));
  return *index;
}

Result<void> run_detach(const DetachArguments& arguments) {
  RETURN_IF_ERROR(need_root("detach"));
  ASSIGN_OR_RETURN(const uint32_t index, find_target(arguments.target));
  return attach::detach_device(index, arguments.force);
}

void add_attach(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<AttachArguments>();
  CLI::App* verb = app.add_subcommand(
      "attach", "Make a volume of a running server a disk of this host, through the kernel's NBD client");
  verb->add_option("VOL[@SNAP]", arguments->volume, "The volume or snapshot")->required();
  verb->add_option("DEVICE", arguments->device, "As /dev/nbd0 (default: any that is free)");
  verb->add_option(
          "--connect", arguments->servers,
          "tcp://HOST:PORT or unix:PATH of a server, repeatable: they are tried in turn (default: through "
          "the control socket of the store's server)")
      ->allow_extra_args(false)
      ->expected(1)
      ->take_all();
  verb->add_option("--connections", arguments->options.connections_count, "Connections to the server")
      ->check(CLI::Range(1U, limits::kMaxDeviceConnections))
      ->capture_default_str();
  verb->add_flag("--read-only", arguments->options.read_only, "Let nobody write to the device");
  verb->add_option("--timeout", arguments->options.timeouts.request_seconds,
                   "Seconds without an answer until the kernel sends a request again, on another connection")
      ->check(CLI::Range(1U, limits::kMaxDeviceTimeoutSeconds))
      ->capture_default_str();
  verb->add_option("--dead-timeout", arguments->options.timeouts.dead_seconds,
                   "Seconds without any server until requests fail")
      ->check(CLI::Range(0U, limits::kMaxDeviceTimeoutSeconds))
      ->capture_default_str();
  verb->add_flag("--foreground", arguments->foreground, "Stay, and log to standard error");
  verb->callback([arguments, &context] {
    context.run = [arguments, &context] { return run_attach(context, *arguments); };
  });
}

void add_detach(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<DetachArguments>();
  CLI::App* verb = app.add_subcommand("detach", "Take a disk of this host away, and wait until it is gone");
  verb->add_option("DEVICE|VOL", arguments->target, "As /dev/nbd0, or the volume that is attached")
      ->required();
  verb->add_flag("--force", arguments->force, "Even while it is in use; what was not written is lost");
  verb->callback([arguments, &context] { context.run = [arguments] { return run_detach(*arguments); }; });
}

}  // namespace

void add_attach_commands(CLI::App& app, Context& context) {
  add_attach(app, context);
  add_detach(app, context);
}

}  // namespace fdbnbd::cli
