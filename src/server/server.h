#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/function.h"
#include "base/limits.h"
#include "base/result.h"
#include "config/fdb_client.h"
#include "config/store_url.h"
#include "config/volume_spec.h"
#include "net/endpoint.h"
#include "net/fd.h"
#include "session/session_limits.h"
#include "volume/store.h"

// A whole server: the store, its volumes, the NBD sessions and the control service, on I/O threads of their
// own. `serve` runs one with listeners; every other verb runs one without, where no server holds the store.

namespace fdbnbd::server {

struct ServerOptions {
  config::StoreUrl store;
  bool create_store = true;                    // make an embedded store that is not there
  std::optional<uint64_t> store_memory_bytes;  // bound of the embedded store's caches and buffers
  // What holds for the distributed store, its URL's options included (config::resolve_fdb_client). The same
  // for all stores of a process.
  config::FdbClient fdb;

  uint32_t io_threads_count = 1;
  session::SessionLimits limits;

  // Where NBD clients connect; nowhere where empty.
  std::vector<net::Endpoint> listen;
  bool allow_remote = false;
  bool read_only = false;  // no NBD client may write
  // Listen on the sockets of the service manager, where it passed any, instead of `listen`.
  bool use_activation_sockets = false;

  // The path of the control socket; none where empty.
  std::string control_path;

  // In a store that other servers share: how volumes that they hold are taken. With handover all of them are,
  // once this server listens.
  volume::Takeover takeover = volume::Takeover::when_free;
  Duration lease_duration = limits::kLeaseDuration;

  Duration trash_retention = limits::kDefaultTrashRetention;  // as volume::Store::Options

  // Volumes to make where they are not there; `first_volume` where there is none at all.
  std::vector<config::VolumeSpec> volumes;
  std::optional<config::VolumeSpec> first_volume;
};

// As many I/O threads as pay off on this machine.
uint32_t default_io_threads_count();

// All calls from one thread, which is none of the server's own; connect_control() from any such thread.
class Server {
 public:
  // Opens the store, then makes the volumes, then listens. Errors, each with what to do next: busy (another
  // process holds the store, with its pid; an address is in use), not_found, permission, invalid,
  // unavailable, corruption, newer_format, no_space, io.
  static Result<std::unique_ptr<Server>> start(ServerOptions options);

  virtual ~Server() = default;

  // The addresses in use, as --listen takes them.
  virtual std::vector<std::string> addresses() = 0;

  // Takes over what can change while clients are connected: where it listens (unless the service manager has
  // passed the sockets), how long removed volumes are kept, and the limits of connections and of what each
  // may have in flight. Makes the volumes that are not there. All else of `options` is left alone. `on_done`
  // is called on a thread of the server; where it listens stays as it was on an error. Blocks while host
  // names are looked up.
  virtual void reload(ServerOptions options, UniqueFunction<void(Result<void>)> on_done) = 0;

  // A new control connection to this server.
  virtual Result<net::OwnedFd> connect_control() = 0;

  // Serves one NBD client on two descriptors, which stay the caller's. `on_end` is called on a thread of the
  // server.
  virtual void serve_descriptors(int in, int out, UniqueFunction<void()> on_end) = 0;

  // Stops accepting and reading, answers what is in flight, closes the store. Waits for all that, at most
  // limits::kShutdownTimeout for clients that take no answers. Once.
  //
  // False where the store has not answered within limits::kStopTimeout: tasks wait for it, so the server can
  // neither be destroyed nor used, and the process has to end as by a kill, which the store survives.
  [[nodiscard]] virtual bool stop() = 0;
};

}  // namespace fdbnbd::server
