#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "config/fdb_client.h"
#include "config/store_url.h"
#include "control/client.h"
#include "server/server.h"

namespace fdbnbd::cli {

// Stops the server; where the store does not answer, ends the process, with a line that says so.
void stop_or_exit(server::Server& server);

// The way to a store: the running server that holds it, or a server in this process for as long as this
// lives.
class StoreAccess {
 public:
  enum class Missing {
    create,  // an embedded store that is not there is made
    fail,    // it is Errc::not_found
  };

  // Waits a moment for a server that is starting or stopping. busy: another process holds the store, with its
  // pid; not_found, unavailable, permission and the rest of Server::start. `options` name the store, and are
  // those of a server in this process.
  static Result<StoreAccess> open(server::ServerOptions options, Missing missing);

  StoreAccess(StoreAccess&&) noexcept;
  StoreAccess& operator=(StoreAccess&&) = delete;
  ~StoreAccess();

  // A control connection.
  Result<control::Client> connect();

 private:
  StoreAccess(std::string control_path, control::Client client);
  explicit StoreAccess(std::unique_ptr<server::Server> server);

  std::string control_path_;               // of the running server; empty where it is server_
  std::optional<control::Client> client_;  // the connection on which it answered, until it is taken
  std::unique_ptr<server::Server> server_;
};

}  // namespace fdbnbd::cli
