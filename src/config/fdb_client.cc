#include "config/fdb_client.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace fdbnbd::config {

namespace {

using Option = std::pair<std::string, std::string>;

// What the library reads where the option is not set.
constexpr std::pair<std::string_view, const char*> kTlsVariables[] = {
    {"tls_cert_path", "FDB_TLS_CERTIFICATE_FILE"},
    {"tls_key_path", "FDB_TLS_KEY_FILE"},
    {"tls_ca_path", "FDB_TLS_CA_FILE"},
    {"tls_password", "FDB_TLS_PASSWORD"},
    {"tls_verify_peers", "FDB_TLS_VERIFY_PEERS"},
};

bool is_in_environment(std::string_view name, EnvironmentLookup environment) {
  std::string variable = "FDB_NETWORK_OPTION_";
  for (const char c : name) variable += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (environment(variable.c_str()) != nullptr) return true;
  return std::ranges::any_of(kTlsVariables, [&](const auto& entry) {
    return entry.first == name && environment(entry.second) != nullptr;
  });
}

// What two options must have in common for one to replace the other.
std::string_view identity(const Option& option) {
  if (option.first != "knob") return option.first;
  return std::string_view(option.second).substr(0, option.second.find('='));
}

bool is_same(const Option& a, const Option& b) {
  return a.first == b.first && identity(a) == identity(b);
}

}  // namespace

FdbClient resolve_fdb_client(const FdbClient& file, const StoreUrl& store, EnvironmentLookup environment) {
  FdbClient client;
  const char* const library = environment("FDB_NBD_FDB_LIBRARY");
  if (library == nullptr || *library == '\0') client.library = file.library;
  for (const Option& option : file.options) {
    const bool is_beaten =
        is_in_environment(option.first, environment) ||
        std::ranges::any_of(store.options, [&](const Option& other) { return is_same(option, other); });
    if (!is_beaten) client.options.push_back(option);
  }
  client.options.insert(client.options.end(), store.options.begin(), store.options.end());
  return client;
}

}  // namespace fdbnbd::config
