#include <fmt/core.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <memory>
#include <utility>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/serve_options.h"
#include "cli/store_access.h"
#include "net/io_loop.h"
#include "net/service_manager.h"
#include "net/signals.h"

namespace fdbnbd::cli {

namespace {

// What to type next, for who serves for the first time.
void print_hints(const std::string& address, const std::string& volume) {
  const auto endpoint = net::parse_endpoint(address);
  if (!endpoint) return;
  std::string uri;
  std::string list;
  std::string attach;
  std::string qemu;
  if (endpoint->kind == net::Endpoint::Kind::unix_socket) {
    uri = fmt::format("nbd+unix:///{}?socket={}", volume, endpoint->path);
    list = fmt::format("nbdinfo --list 'nbd+unix:///?socket={}'", endpoint->path);
    attach =
        fmt::format("sudo modprobe nbd && sudo nbd-client -unix {} -N {} /dev/nbd0", endpoint->path, volume);
  } else {
    const bool is_default = endpoint->port == net::kNbdPort;
    const std::string port = is_default ? "" : fmt::format(":{}", endpoint->port);
    uri = fmt::format("nbd://{}{}/{}", endpoint->host, port, volume);
    list = fmt::format("nbdinfo --list nbd://{}{}", endpoint->host, port);
    attach = fmt::format("sudo modprobe nbd && sudo nbd-client -N {} {} {}/dev/nbd0", volume, endpoint->host,
                         is_default ? "" : fmt::format("{} ", endpoint->port));
  }
  print(
      fmt::format("\nIn another terminal:\n"
                  "  {}\n"
                  "  {} && sudo mkfs.ext4 /dev/nbd0\n"
                  "  qemu-system-x86_64 -drive file={},format=raw,if=virtio ...\n"
                  "Ctrl-C ends the server; what was written stays.\n\n",
                  list, attach, uri));
}

// `started` is the file as the server began with it.
Result<void> reload(const Context& context, const ServeFlags& flags, const config::Config& started,
                    server::Server& server) {
  ASSIGN_OR_RETURN(const config::Config file, context.config());
  ASSIGN_OR_RETURN(const log::Level level, log_level(flags, file));
  ASSIGN_OR_RETURN(const config::StoreUrl store, context.store(started));
  ASSIGN_OR_RETURN(server::ServerOptions options, server_options(flags, reloadable(started, file), store));
  log::set_level(level);
  const std::vector<std::string> fixed = fixed_changes(started, file);
  if (!fixed.empty()) log::warning("changed at the next start only: {}", fmt::join(fixed, ", "));
  server.reload(std::move(options), [](Result<void> done) {
    if (done) {
      log::info("configuration reloaded");
    } else {
      log::error("not all of the configuration reloaded: {}", done.error().what);
    }
  });
  return {};
}

Result<void> serve(const Context& context, const ServeFlags& flags) {
  net::block_signals({SIGTERM, SIGINT, SIGHUP});
  ASSIGN_OR_RETURN(const config::Config file, context.config());
  ASSIGN_OR_RETURN(const log::Level level, log_level(flags, file));
  log::set_level(level);
  ASSIGN_OR_RETURN(const config::StoreUrl store, context.store(file));
  ASSIGN_OR_RETURN(server::ServerOptions options, server_options(flags, file, store));
  options.fdb = Context::fdb_client(file, store);
  RETURN_IF_ERROR(context.prepare_default_store(file, store));
  const std::string first_volume = options.first_volume ? options.first_volume->name : "VOL";
  ASSIGN_OR_RETURN(const std::unique_ptr<server::Server> server, server::Server::start(std::move(options)));

  net::IoLoop loop;
  std::atomic_flag ending;
  const auto end = [&] {
    if (!ending.test_and_set()) loop.stop();
  };
  net::SignalWatch signals(loop, {SIGTERM, SIGINT, SIGHUP}, [&](int signal) {
    if (ending.test()) return;
    if (signal == SIGHUP) {
      const auto reloaded = reload(context, flags, file, *server);
      if (!reloaded) log::error("nothing reloaded: {}", reloaded.error().what);
    } else {
      end();
    }
  });
  if (flags.stdio) server->serve_descriptors(STDIN_FILENO, STDOUT_FILENO, end);
  const std::vector<std::string> addresses = server->addresses();
  if (!flags.stdio) {
    for (const std::string& address : addresses) print(fmt::format("listening on {}\n", address));
    if (flags.hints && !addresses.empty()) print_hints(addresses.front(), first_volume);
    RETURN_IF_ERROR(finish_output());
  }
  net::notify_service_manager("READY=1");
  loop.run();
  net::notify_service_manager("STOPPING=1");
  log::info("stopping");
  stop_or_exit(*server);
  loop.run(signals.stop());
  return {};
}

}  // namespace

void add_serve_command(CLI::App& app, Context& context) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* verb = app.add_subcommand("serve", "Serve the volumes of a store to NBD clients, until SIGTERM");
  verb->add_option("--listen", flags->listen,
                   fmt::format("tcp://HOST:PORT or unix:PATH, repeatable; port 0 picks one (default {})",
                               kDefaultListen))
      ->allow_extra_args(false);
  verb->add_option("--volume", flags->volumes,
                   "NAME=SIZE, repeatable: make this volume where it is not there")
      ->allow_extra_args(false);
  verb->add_option("--first-volume", flags->first_volume,
                   "NAME=SIZE: make this volume where there is none at all");
  verb->add_option("--control", flags->control,
                   "Path of the control socket (default: control.sock in an embedded store)");
  verb->add_flag("--stdio", flags->stdio, "Serve one client on stdin and stdout, then end");
  verb->add_flag("--read-only", flags->read_only,
                 "Let no client write; in a shared store, also beside the servers that write");
  verb->add_flag("--takeover", flags->takeover,
                 "Ask other servers of a shared store to hand their volumes over, and wait until they have");
  verb->add_flag("--force", flags->force,
                 "Take volumes from other servers of a shared store at once; their clients get errors")
      ->excludes("--takeover");
  verb->add_option("--lease", flags->lease_s,
                   fmt::format("Seconds after which a server of a shared store that gives no sign of life "
                               "loses its volumes (default {})",
                               std::chrono::seconds(limits::kLeaseDuration).count()))
      ->check(CLI::Range(std::chrono::duration<double>(limits::kMinLeaseDuration).count(),
                         std::chrono::duration<double>(limits::kMaxLeaseDuration).count()));
  verb->add_flag("--insecure", flags->insecure, "Listen also where other hosts can connect, without TLS");
  verb->add_option("--tls", flags->tls, "off, on or require")->check(CLI::IsMember({"off", "on", "require"}));
  verb->add_option("--io-threads", flags->io_threads,
                   fmt::format("Threads that serve clients (default {})", server::default_io_threads_count()))
      ->check(CLI::Range(1U, 256U));
  verb->add_option("--max-connections", flags->connections, "NBD connections at a time")
      ->check(CLI::PositiveNumber);
  verb->add_option("--max-requests", flags->requests_per_connection, "Requests in flight on one connection")
      ->check(CLI::PositiveNumber);
  verb->add_option("--connection-memory", flags->connection_in_flight,
                   "Bytes in flight on one connection, as 64M");
  verb->add_option("--memory", flags->in_flight, "Bytes in flight on all connections, as 256M");
  verb->add_option("--store-memory", flags->store_memory, "Caches and buffers of an embedded store, as 256M");
  verb->add_option("--handshake-timeout", flags->handshake_timeout_s,
                   "Seconds that a client has to agree on an export")
      ->check(CLI::Range(1U, 86400U));
  verb->add_option("--log-level", flags->log_level, "debug, info, warning or error")
      ->envname("FDB_NBD_LOG_LEVEL");
  verb->add_flag("--hints", flags->hints, "Print what to type next");
  verb->callback([flags, &context] { context.run = [flags, &context] { return serve(context, *flags); }; });
}

}  // namespace fdbnbd::cli
