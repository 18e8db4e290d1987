#include "cli/serve_options.h"

#include <fmt/core.h>

#include <chrono>
#include <utility>

#include "base/limits.h"
#include "base/units.h"

namespace fdbnbd::cli {

namespace {

template <typename T>
void override_with(T& target, const std::optional<T>& value) {
  if (value) target = *value;
}

// A size of a flag, else of the file, else what `target` has.
Result<void> override_size(uint64_t& target, const std::optional<std::string>& flag,
                           const std::optional<uint64_t>& file) {
  override_with(target, file);
  if (flag) {
    ASSIGN_OR_RETURN(target, parse_size(*flag));
  }
  return {};
}

Result<std::vector<net::Endpoint>> listen_endpoints(const ServeFlags& flags, const config::Config& file) {
  std::vector<net::Endpoint> endpoints;
  for (const std::string& text : flags.listen) {
    ASSIGN_OR_RETURN(net::Endpoint endpoint, net::parse_endpoint(text));
    endpoints.push_back(std::move(endpoint));
  }
  if (!endpoints.empty() || flags.stdio) return endpoints;
  if (file.listen) return *file.listen;
  ASSIGN_OR_RETURN(net::Endpoint endpoint, net::parse_endpoint(kDefaultListen));
  endpoints.push_back(std::move(endpoint));
  return endpoints;
}

Result<void> check_limits(const session::SessionLimits& limits) {
  if (limits.connection_bytes < limits::kMaxPayloadBytes) {
    return fail(Errc::invalid,
                fmt::format("a connection's bytes in flight cannot be less than one request's, {}",
                            format_size(limits::kMaxPayloadBytes)));
  }
  if (limits.process_bytes < limits.connection_bytes + limits.reserved_for_small_bytes) {
    return fail(
        Errc::invalid,
        fmt::format("the bytes in flight of all connections cannot be less than {}: one connection's and {}",
                    format_size(limits.connection_bytes + limits.reserved_for_small_bytes),
                    format_size(limits.reserved_for_small_bytes)));
  }
  return {};
}

Result<session::SessionLimits> session_limits(const ServeFlags& flags, const config::Config& file) {
  session::SessionLimits limits;
  override_with(limits.connections_count, file.connections);
  override_with(limits.connections_count, flags.connections);
  override_with(limits.requests_per_connection, file.requests_per_connection);
  override_with(limits.requests_per_connection, flags.requests_per_connection);
  RETURN_IF_ERROR(
      override_size(limits.connection_bytes, flags.connection_in_flight, file.connection_in_flight_bytes));
  RETURN_IF_ERROR(override_size(limits.process_bytes, flags.in_flight, file.in_flight_bytes));
  const auto handshake_timeout_s =
      flags.handshake_timeout_s ? flags.handshake_timeout_s : file.handshake_timeout_s;
  if (handshake_timeout_s) limits.handshake_timeout = std::chrono::seconds(*handshake_timeout_s);
  RETURN_IF_ERROR(check_limits(limits));
  return limits;
}

}  // namespace

Result<server::ServerOptions> server_options(const ServeFlags& flags, const config::Config& file,
                                             const config::StoreUrl& store) {
  const std::string tls = flags.tls ? *flags.tls : file.tls.value_or("off");
  if (tls != "off") {
    return fail(
        Errc::not_supported,
        fmt::format("--tls {} is not available yet; use --tls off on loopback or a Unix socket", tls));
  }
  server::ServerOptions options;
  options.store = store;
  options.io_threads_count = server::default_io_threads_count();
  override_with(options.io_threads_count, file.io_threads);
  override_with(options.io_threads_count, flags.io_threads);
  ASSIGN_OR_RETURN(options.limits, session_limits(flags, file));
  ASSIGN_OR_RETURN(options.listen, listen_endpoints(flags, file));
  options.allow_remote = flags.insecure || file.insecure.value_or(false);
  options.read_only = flags.read_only || file.read_only.value_or(false);
  options.use_activation_sockets = !flags.stdio;
  if (flags.takeover) options.takeover = volume::Takeover::handover;
  if (flags.force) options.takeover = volume::Takeover::force;
  if (options.read_only && options.takeover != volume::Takeover::when_free)
    return fail(Errc::invalid,
                "a read-only server takes no volumes: --takeover and --force do not go with it");
  if (flags.lease_s) {
    options.lease_duration =
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(*flags.lease_s));
  }
  if (file.trash_retention_s) options.trash_retention = std::chrono::seconds(*file.trash_retention_s);
  if (store.kind == config::StoreUrl::Kind::rocksdb)
    options.control_path = config::control_socket_in(store.path);
  override_with(options.control_path, file.control);
  override_with(options.control_path, flags.control);
  if (file.volumes) options.volumes = *file.volumes;
  for (const std::string& text : flags.volumes) {
    ASSIGN_OR_RETURN(config::VolumeSpec spec, config::parse_volume_spec(text));
    options.volumes.push_back(std::move(spec));
  }
  if (flags.first_volume) {
    ASSIGN_OR_RETURN(options.first_volume, config::parse_volume_spec(*flags.first_volume));
  }
  options.store_memory_bytes = file.store_bytes;
  if (flags.store_memory) {
    ASSIGN_OR_RETURN(options.store_memory_bytes, parse_size(*flags.store_memory));
  }
  return options;
}

Result<log::Level> log_level(const ServeFlags& flags, const config::Config& file) {
  if (flags.log_level) return config::parse_log_level(*flags.log_level);
  return file.log_level.value_or(log::Level::info);
}

config::Config reloadable(const config::Config& before, const config::Config& after) {
  config::Config taken = before;
  taken.log_level = after.log_level;
  taken.listen = after.listen;
  taken.volumes = after.volumes;
  taken.connections = after.connections;
  taken.requests_per_connection = after.requests_per_connection;
  taken.connection_in_flight_bytes = after.connection_in_flight_bytes;
  taken.handshake_timeout_s = after.handshake_timeout_s;
  taken.trash_retention_s = after.trash_retention_s;
  return taken;
}

std::vector<std::string> fixed_changes(const config::Config& before, const config::Config& after) {
  std::vector<std::string> changes;
  const auto compare = [&](const char* key, const auto& old_value, const auto& new_value) {
    if (old_value != new_value) changes.emplace_back(key);
  };
  compare("store", before.store, after.store);
  compare("control", before.control, after.control);
  compare("insecure", before.insecure, after.insecure);
  compare("tls", before.tls, after.tls);
  compare("read_only", before.read_only, after.read_only);
  compare("io_threads", before.io_threads, after.io_threads);
  compare("limits.in_flight_bytes", before.in_flight_bytes, after.in_flight_bytes);
  compare("memory.store_bytes", before.store_bytes, after.store_bytes);
  compare("fdb", before.fdb, after.fdb);
  return changes;
}

}  // namespace fdbnbd::cli
