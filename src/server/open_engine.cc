#include "server/open_engine.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <fstream>
#include <optional>
#include <utility>

#include "kv/fdb/fdb_engine.h"
#include "kv/fdb/network.h"
#include "kv/memory/memory_engine.h"
#include "kv/rocks/rocks_engine.h"
#include "net/fd.h"

namespace fdbnbd::server {

namespace {

using Kind = config::StoreUrl::Kind;

// "pid 17 (fdb-nbd)": the process that has locked the embedded store's LOCK file.
std::optional<std::string> lock_holder(const std::string& directory) {
  const net::OwnedFd file(::open((directory + "/LOCK").c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return std::nullopt;
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(file.get(), F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK || lock.l_pid <= 0)
    return std::nullopt;
  std::string name;
  std::getline(std::ifstream(fmt::format("/proc/{}/comm", lock.l_pid)), name);
  return name.empty() ? fmt::format("pid {}", lock.l_pid) : fmt::format("pid {} ({})", lock.l_pid, name);
}

Result<std::unique_ptr<kv::Engine>> open_embedded(const ServerOptions& options) {
  kv::RocksOptions rocks;
  rocks.path = options.store.path;
  rocks.create_if_missing = options.create_store;
  if (options.store_memory_bytes) rocks.memory_bytes = *options.store_memory_bytes;
  auto engine = kv::open_rocks_engine(rocks);
  if (engine) return engine;
  Error error = std::move(engine.error());
  if (error.code == Errc::busy) {
    const auto holder = lock_holder(options.store.path);
    error.what = fmt::format("store {} is held by {}; stop that first, or wait for it to end",
                             options.store.path, holder.value_or("another process"));
  } else if (error.code == Errc::not_found && !options.create_store) {
    error.what = fmt::format("there is no store in {}; `fdb-nbd create` and `fdb-nbd serve` make one",
                             options.store.path);
  }
  return tl::unexpected(std::move(error));
}

Result<std::unique_ptr<kv::Engine>> open_distributed(const ServerOptions& options) {
  kv::FdbOptions fdb;
  fdb.cluster_file = options.store.path;
  fdb.library_path = options.fdb.library;
  fdb.network_options = options.fdb.options;
  return kv::open_fdb_engine(fdb);
}

}  // namespace

std::string key_prefix(const config::StoreUrl& store) {
  if (store.kind != Kind::fdb) return {};
  return (store.prefix.empty() ? "fdb-nbd" : store.prefix) + "/";
}

void shut_down_engines() {
  kv::fdb::stop_network();
}

Result<std::unique_ptr<kv::Engine>> open_engine(const ServerOptions& options) {
  switch (options.store.kind) {
    case Kind::rocksdb:
      return open_embedded(options);
    case Kind::memory: {
      kv::MemoryOptions memory;
      memory.always_suspend = false;
      return kv::open_memory_engine(std::move(memory));
    }
    case Kind::fdb:
      return open_distributed(options);
    case Kind::control:
      return fail(Errc::invalid,
                  fmt::format("store {} is another server's; a server needs a store of its own",
                              config::to_string(options.store)));
  }
  return fail(Errc::invalid, "unknown kind of store");
}

}  // namespace fdbnbd::server
