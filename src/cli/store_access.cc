#include "cli/store_access.h"

#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "cli/exit_status.h"
#include "cli/output.h"

namespace fdbnbd::cli {

namespace {

using config::StoreUrl;

// How long a server may take to come up, or to let go of the store.
constexpr auto kPatience = std::chrono::seconds(5);
constexpr auto kRetryDelay = std::chrono::milliseconds(50);

// A connection to the server that answers at `path`.
Result<control::Client> reach(const std::string& path) {
  ASSIGN_OR_RETURN(net::OwnedFd socket, control::connect_control_socket(path));
  control::Client client(std::move(socket));
  RETURN_IF_ERROR(client.call(control::HelloRequest{}));
  return client;
}

}  // namespace

void stop_or_exit(server::Server& server) {
  if (server.stop()) return;
  print_error("fdb-nbd: the store does not answer; leaving it as it is\n");
  std::_Exit(static_cast<int>(ExitStatus::unreachable));
}

StoreAccess::StoreAccess(std::string control_path, control::Client client)
    : control_path_(std::move(control_path)), client_(std::move(client)) {}
StoreAccess::StoreAccess(std::unique_ptr<server::Server> server) : server_(std::move(server)) {}
StoreAccess::StoreAccess(StoreAccess&&) noexcept = default;

StoreAccess::~StoreAccess() {
  if (server_) stop_or_exit(*server_);
}

Result<StoreAccess> StoreAccess::open(server::ServerOptions options, Missing missing) {
  const StoreUrl& store = options.store;
  options.create_store = missing == Missing::create;
  if (store.kind == StoreUrl::Kind::control) {
    auto client = reach(store.path);
    if (client) return StoreAccess(store.path, std::move(*client));
    // No server is no store.
    const Errc code = client.error().code == Errc::not_found ? Errc::unavailable : client.error().code;
    return fail(code, client.error().what + "; start it with: fdb-nbd serve --control " + store.path);
  }
  if (store.kind != StoreUrl::Kind::rocksdb) {
    ASSIGN_OR_RETURN(auto server, server::Server::start(options));
    return StoreAccess(std::move(server));
  }
  const std::string control_path = config::control_socket_in(store.path);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    auto client = reach(control_path);
    if (client) return StoreAccess(control_path, std::move(*client));
    const bool in_vain = std::chrono::steady_clock::now() >= deadline;
    const Errc code = client.error().code;
    if (code == Errc::permission) return propagate(client);
    if (code == Errc::peer_gone) {
      // It is stopping: the store is free in a moment.
      if (in_vain)
        return fail(Errc::busy, fmt::format("the server at {} is stopping; try again", control_path));
    } else if (code == Errc::busy) {
      if (in_vain) return propagate(client);
    } else {
      // Nobody listens, so the store should be free; it is not while a server starts.
      auto server = server::Server::start(options);
      if (server) return StoreAccess(std::move(*server));
      if (server.error().code != Errc::busy || in_vain) return propagate(server);
    }
    std::this_thread::sleep_for(kRetryDelay);
  }
}

Result<control::Client> StoreAccess::connect() {
  if (client_) {
    control::Client client = std::move(*client_);
    client_.reset();
    return client;
  }
  ASSIGN_OR_RETURN(net::OwnedFd socket,
                   server_ ? server_->connect_control() : control::connect_control_socket(control_path_));
  return control::Client(std::move(socket));
}

}  // namespace fdbnbd::cli
