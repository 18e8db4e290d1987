#pragma once

#include <optional>
#include <string>

#include "base/function.h"
#include "base/result.h"
#include "cli/store_access.h"
#include "config/config.h"
#include "control/messages.h"

namespace fdbnbd::cli {

// What all verbs share: the options that stand before any verb, and the way to the store that follows from
// them.
struct Context {
  std::optional<std::string> store_text;   // --store or $FDB_NBD_STORE
  std::optional<std::string> config_path;  // --config or $FDB_NBD_CONFIG
  bool progress_enabled = true;

  // The verb that was given, ready to run.
  UniqueFunction<Result<void>()> run;

  // The configuration file; empty where there is none in the default place.
  Result<config::Config> config() const;

  // Where the store is: flag, environment, file, default.
  Result<config::StoreUrl> store(const config::Config& config) const;
  // A URL; `rocksdb:` alone means the default place.
  static Result<config::StoreUrl> parse_store(const std::string& text);

  // How FoundationDB's client is set up for `store`: URL, environment, file.
  static config::FdbClient fdb_client(const config::Config& config, const config::StoreUrl& store);

  // Makes the directories above the default store where `store` is that one: nobody has named it, so nobody
  // has made a place for it.
  Result<void> prepare_default_store(const config::Config& config, const config::StoreUrl& store) const;

  Result<StoreAccess> open_store(StoreAccess::Missing missing) const;
  // The store behind a URL as --store takes it.
  Result<StoreAccess> open_store_at(const std::string& url, StoreAccess::Missing missing) const;

  // Carries out one request on a connection of its own, with a progress display titled `title` where that is
  // not empty. The result's JSON.
  Result<std::string> ask(StoreAccess& access, const control::Request& request,
                          const std::string& title = "") const;
  Result<std::string> ask(const control::Request& request,
                          StoreAccess::Missing missing = StoreAccess::Missing::fail,
                          const std::string& title = "") const;

  // Whether a progress bar makes sense.
  bool shows_bar() const;
};

}  // namespace fdbnbd::cli
