#include "cli/context.h"

#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "cli/progress.h"

namespace fdbnbd::cli {

namespace {

constexpr uint32_t kMaxReadAttempts = 5;

// The server in this process, where none is running.
server::ServerOptions local_server(const config::Config& file, const config::StoreUrl& store) {
  server::ServerOptions options;
  options.store = store;
  options.fdb = Context::fdb_client(file, store);
  if (file.trash_retention_s) options.trash_retention = std::chrono::seconds(*file.trash_retention_s);
  return options;
}

}  // namespace

Result<config::Config> Context::config() const {
  if (config_path) return config::load_config(*config_path);
  auto config = config::load_config(std::string(config::kDefaultConfigPath));
  if (!config && config.error().code == Errc::not_found) return config::Config{};
  return config;
}

Result<config::StoreUrl> Context::store(const config::Config& config) const {
  return parse_store(store_text ? *store_text : config.store.value_or("rocksdb:"));
}

Result<config::StoreUrl> Context::parse_store(const std::string& text) {
  std::string default_directory;
  if (text == "rocksdb:") {
    ASSIGN_OR_RETURN(
        default_directory,
        config::default_store_directory(geteuid() == 0, std::getenv("XDG_STATE_HOME"), std::getenv("HOME")));
  }
  return config::parse_store_url(text, default_directory);
}

config::FdbClient Context::fdb_client(const config::Config& config, const config::StoreUrl& store) {
  return config::resolve_fdb_client(config.fdb, store, &std::getenv);
}

Result<void> Context::prepare_default_store(const config::Config& config,
                                            const config::StoreUrl& store) const {
  const bool is_default = !store_text && !config.store;
  if (!is_default || store.kind != config::StoreUrl::Kind::rocksdb) return {};
  const auto parent = std::filesystem::path(store.path).parent_path();
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (!error) return {};
  return fail(error == std::errc::permission_denied ? Errc::permission : Errc::io,
              fmt::format("cannot make the directory {}: {}; --store names another place", parent.string(),
                          error.message()));
}

Result<StoreAccess> Context::open_store(StoreAccess::Missing missing) const {
  ASSIGN_OR_RETURN(const config::Config file, config());
  ASSIGN_OR_RETURN(const config::StoreUrl url, store(file));
  if (missing == StoreAccess::Missing::create) RETURN_IF_ERROR(prepare_default_store(file, url));
  return StoreAccess::open(local_server(file, url), missing);
}

Result<StoreAccess> Context::open_store_at(const std::string& url, StoreAccess::Missing missing) const {
  ASSIGN_OR_RETURN(const config::Config file, config());
  ASSIGN_OR_RETURN(const config::StoreUrl parsed, parse_store(url));
  return StoreAccess::open(local_server(file, parsed), missing);
}

Result<std::string> Context::ask(StoreAccess& access, const control::Request& request,
                                 const std::string& title) const {
  ASSIGN_OR_RETURN(control::Client client, access.connect());
  if (title.empty()) return client.call(request);
  ProgressDisplay display(title, shows_bar());
  return client.call(request, [&](control::ProgressReport report) {
    display.update(report.done_bytes, report.total_bytes);
  });
}

Result<std::string> Context::ask(const control::Request& request, StoreAccess::Missing missing,
                                 const std::string& title) const {
  for (uint32_t attempt = 1;; ++attempt) {
    ASSIGN_OR_RETURN(StoreAccess access, open_store(missing));
    auto result = ask(access, request, title);
    // A server that stops has not answered; what only reads can be asked again of whoever holds the store
    // now.
    const bool lost = !result && result.error().code == Errc::peer_gone;
    if (!lost || !control::only_reads(request) || attempt == kMaxReadAttempts) return result;
  }
}

bool Context::shows_bar() const {
  return progress_enabled && isatty(STDERR_FILENO) == 1;
}

}  // namespace fdbnbd::cli
