#include "config/store_url.h"

#include <fmt/core.h>

namespace fdbnbd::config {

namespace {

Result<StoreUrl> parse_fdb(std::string_view rest) {
  StoreUrl url{.kind = StoreUrl::Kind::fdb, .path = {}, .prefix = {}};
  const auto query = rest.find('?');
  url.path = rest.substr(0, query);
  if (query == std::string_view::npos) return url;
  std::string_view parameters = rest.substr(query + 1);
  static constexpr std::string_view kPrefix = "prefix=";
  if (!parameters.starts_with(kPrefix) || parameters.size() == kPrefix.size() ||
      parameters.find('&') != std::string_view::npos) {
    return fail(Errc::invalid, fmt::format("store fdb:{}: the only parameter is ?prefix=NAME", rest));
  }
  url.prefix = parameters.substr(kPrefix.size());
  return url;
}

}  // namespace

Result<StoreUrl> parse_store_url(std::string_view text, std::string_view default_directory) {
  const auto colon = text.find(':');
  const std::string_view scheme = text.substr(0, colon);
  const std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  if (text.find('\0') != std::string_view::npos) {
    return fail(Errc::invalid, "a store URL cannot hold a NUL byte");
  }
  if (colon != std::string_view::npos) {
    if (scheme == "rocksdb") {
      return StoreUrl{.kind = StoreUrl::Kind::rocksdb,
                      .path = std::string(rest.empty() ? default_directory : rest),
                      .prefix = {}};
    }
    if (scheme == "fdb") return parse_fdb(rest);
    if (scheme == "memory" && rest.empty()) return StoreUrl{};
    if (scheme == "control" && !rest.empty()) {
      return StoreUrl{.kind = StoreUrl::Kind::control, .path = std::string(rest), .prefix = {}};
    }
  }
  return fail(Errc::invalid,
              fmt::format("\"{}\" is not a store URL: use rocksdb:PATH, fdb:[CLUSTER_FILE][?prefix=NAME], "
                          "memory: or control:SOCKET",
                          text));
}

std::string to_string(const StoreUrl& url) {
  switch (url.kind) {
    case StoreUrl::Kind::rocksdb:
      return "rocksdb:" + url.path;
    case StoreUrl::Kind::fdb:
      return "fdb:" + url.path + (url.prefix.empty() ? "" : "?prefix=" + url.prefix);
    case StoreUrl::Kind::memory:
      return "memory:";
    case StoreUrl::Kind::control:
      return "control:" + url.path;
  }
  return {};
}

Result<std::string> default_store_directory(bool is_root, const char* xdg_state_home, const char* home) {
  if (is_root) return "/var/lib/fdb-nbd";
  if (xdg_state_home != nullptr && *xdg_state_home != '\0') return std::string(xdg_state_home) + "/fdb-nbd";
  if (home != nullptr && *home != '\0') return std::string(home) + "/.local/state/fdb-nbd";
  return fail(Errc::invalid,
              "there is no default store: neither XDG_STATE_HOME nor HOME is set; use --store");
}

std::string control_socket_in(std::string_view directory) {
  return std::string(directory) + "/control.sock";
}

}  // namespace fdbnbd::config
