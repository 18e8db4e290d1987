#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kv/fdb/api.h"

// FoundationDB's network thread: one for the process, started once and never again.

namespace fdbnbd::kv::fdb {

// A network option by the name that FoundationDB's documentation gives it, such as {"trace_enable",
// "/var/log"} or {"knob", "name=value"}; one without a value has an empty one. The library itself also
// applies those in environment variables FDB_NETWORK_OPTION_<NAME>.
using NetworkOption = std::pair<std::string, std::string>;

// What is passed to the library for an option.
struct EncodedOption {
  int code = 0;
  std::string bytes;
};

// Errc::invalid for an unknown name, a value that is missing, superfluous, or not a number where one is
// needed.
Result<EncodedOption> encode_network_option(const NetworkOption& option);

// "name" or "name=value", as in a store URL.
NetworkOption parse_network_option(std::string_view text);

// The library with its network running. The first call loads the library and starts the thread, which runs
// until stop_network() or the end of the process; later ones return the same and must ask for the same
// library and options (Errc::invalid). Errc::unavailable where there is no library or the network was
// stopped. Any thread.
Result<const Api*> start_network(std::string_view library_path, const std::vector<NetworkOption>& options);

// Stops the network and joins its thread; nothing of the library may be in use. To be called before main()
// returns: objects that the library made meanwhile are destroyed before the end of the process stops it.
// Any thread.
void stop_network();

}  // namespace fdbnbd::kv::fdb
