#include "config/store_url.h"

#include <fmt/core.h>

#include <utility>

namespace fdbnbd::config {

namespace {

// What the keys of two stores in one cluster begin with must not begin alike: a slash ends each prefix, so
// none may be inside. Keys that begin with 0xff are the cluster's own.
constexpr size_t kMaxPrefixBytes = 64;
bool is_prefix_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxPrefixBytes && name.find('/') == std::string_view::npos &&
         name.front() != '\xff';
}

bool is_option_name(std::string_view name) {
  return !name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string_view::npos;
}

Result<StoreUrl> parse_fdb(std::string_view rest) {
  StoreUrl url{.kind = StoreUrl::Kind::fdb, .path = {}, .prefix = {}};
  const auto query = rest.find('?');
  url.path = rest.substr(0, query);
  if (query == std::string_view::npos) return url;
  std::string_view parameters = rest.substr(query + 1);
  while (true) {
    const auto ampersand = parameters.find('&');
    const std::string_view parameter = parameters.substr(0, ampersand);
    const auto equals = parameter.find('=');
    const std::string_view name = parameter.substr(0, equals);
    const std::string_view value = equals == std::string_view::npos ? "" : parameter.substr(equals + 1);
    if (name == "prefix") {
      if (!url.prefix.empty() || !is_prefix_name(value)) {
        return fail(Errc::invalid,
                    fmt::format("store fdb:{}: ?prefix=NAME takes one name of 1 to {} bytes without a slash",
                                url.path, kMaxPrefixBytes));
      }
      url.prefix = value;
    } else if (is_option_name(name)) {
      url.options.emplace_back(name, value);
    } else {
      // Without the value, which may be a password.
      return fail(
          Errc::invalid,
          fmt::format("store fdb:{}: \"{}\" is neither prefix=NAME nor a network option of FoundationDB",
                      url.path, name));
    }
    if (ampersand == std::string_view::npos) return url;
    parameters.remove_prefix(ampersand + 1);
  }
}

std::string fdb_to_string(const StoreUrl& url) {
  std::string text = "fdb:" + url.path;
  char separator = '?';
  const auto add = [&](std::string_view name, std::string_view value) {
    text += std::exchange(separator, '&');
    text += name;
    if (!value.empty()) text.append("=").append(value);
  };
  if (!url.prefix.empty()) add("prefix", url.prefix);
  for (const auto& [name, value] : url.options) add(name, name == "tls_password" ? "..." : value);
  return text;
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
      return fdb_to_string(url);
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
