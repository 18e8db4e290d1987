#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

// Where the volumes are stored, as users write it.

namespace fdbnbd::config {

struct StoreUrl {
  enum class Kind { rocksdb, fdb, memory, control };

  Kind kind = Kind::memory;
  // rocksdb: the directory; fdb: the cluster file, empty for FoundationDB's own rules; control: the socket.
  std::string path;
  // fdb only: the name that its keys begin with; empty for the usual one.
  std::string prefix;
  // fdb only: options of FoundationDB's client, as name and value; checked when the store is opened.
  std::vector<std::pair<std::string, std::string>> options = {};

  friend bool operator==(const StoreUrl&, const StoreUrl&) = default;
};

// rocksdb:[PATH], fdb:[CLUSTER_FILE][?prefix=NAME], memory:, control:PATH. `rocksdb:` alone means the
// directory `default_directory`. Behind the `?` of fdb: there may be more, separated by `&`: network options
// of FoundationDB's client, such as trace_enable=DIRECTORY. Errc::invalid otherwise.
Result<StoreUrl> parse_store_url(std::string_view text, std::string_view default_directory);

// The URL again, for messages.
std::string to_string(const StoreUrl& url);

// The embedded store's directory where none is named: /var/lib/fdb-nbd for root, else below
// `xdg_state_home`, else below `home`. Null and empty mean not set; Errc::invalid where nothing is.
Result<std::string> default_store_directory(bool is_root, const char* xdg_state_home, const char* home);

// The control socket of the server that holds the embedded store in `directory`.
std::string control_socket_in(std::string_view directory);

}  // namespace fdbnbd::config
