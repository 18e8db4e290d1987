#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "config/fdb_client.h"
#include "config/volume_spec.h"
#include "net/endpoint.h"

// The configuration file (TOML).

namespace fdbnbd::config {

inline constexpr std::string_view kDefaultConfigPath = "/etc/fdb-nbd/fdb-nbd.toml";

// What a file says; what it does not say is not set. Values are checked one by one, not against each other.
struct Config {
  std::optional<std::string> store;  // a URL
  std::optional<std::vector<net::Endpoint>> listen;
  std::optional<std::vector<VolumeSpec>> volumes;
  std::optional<std::string> control;  // path of the control socket
  std::optional<bool> insecure;
  std::optional<std::string> tls;  // "off", "on", "require"
  std::optional<bool> read_only;
  std::optional<uint32_t> io_threads;
  std::optional<log::Level> log_level;

  // [limits]
  std::optional<uint32_t> connections;
  std::optional<uint32_t> requests_per_connection;
  std::optional<uint64_t> connection_in_flight_bytes;
  std::optional<uint64_t> in_flight_bytes;
  std::optional<uint32_t> handshake_timeout_s;

  // [memory]
  std::optional<uint64_t> store_bytes;

  // [trash]
  std::optional<uint32_t> trash_retention_s;  // 0: there is none

  // [fdb]; its options are sorted by name
  FdbClient fdb;

  friend bool operator==(const Config&, const Config&) = default;
};

// Errc::invalid with "FILE:LINE: what is wrong" for text that is not TOML, an unknown key and a value that
// its key does not take. `file_name` is for the message, which never shows a password.
Result<Config> parse_config(std::string_view text, const std::string& file_name);

// Errc::not_found where there is no such file, Errc::permission, Errc::io.
Result<Config> load_config(const std::string& path);

// "debug", "info", "warning", "error".
Result<log::Level> parse_log_level(std::string_view name);

}  // namespace fdbnbd::config
