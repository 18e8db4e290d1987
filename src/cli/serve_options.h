#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "config/config.h"
#include "config/store_url.h"
#include "server/server.h"

namespace fdbnbd::cli {

// The flags of `serve`; what was not given is not set.
struct ServeFlags {
  std::vector<std::string> listen = {};
  std::vector<std::string> volumes = {};
  std::optional<std::string> first_volume = {};
  std::optional<std::string> control = {};
  std::optional<std::string> tls = {};
  std::optional<std::string> log_level = {};
  std::optional<uint32_t> io_threads = {};
  std::optional<uint32_t> connections = {};
  std::optional<uint32_t> requests_per_connection = {};
  std::optional<std::string> connection_in_flight = {};
  std::optional<std::string> in_flight = {};
  std::optional<uint32_t> handshake_timeout_s = {};
  std::optional<std::string> store_memory = {};
  std::optional<double> lease_s = {};
  bool takeover = false;
  bool force = false;
  bool insecure = false;
  bool read_only = false;
  bool stdio = false;
  bool hints = false;
};

inline constexpr std::string_view kDefaultListen = "tcp://127.0.0.1:10809";

// What the server is to do: a flag beats the file. Errors: invalid, not_supported (TLS).
Result<server::ServerOptions> server_options(const ServeFlags& flags, const config::Config& file,
                                             const config::StoreUrl& store);

Result<log::Level> log_level(const ServeFlags& flags, const config::Config& file);

// `after` with the values of `before` for what a running server cannot take over.
config::Config reloadable(const config::Config& before, const config::Config& after);

// The keys of these, where the values differ.
std::vector<std::string> fixed_changes(const config::Config& before, const config::Config& after);

}  // namespace fdbnbd::cli
