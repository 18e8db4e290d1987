#include "kv/fdb/fdb_engine.h"

#include <fmt/core.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "kv/fdb/bulk_read.h"
#include "kv/fdb/client.h"
#include "kv/fdb/errors.h"
#include "kv/fdb/future.h"
#include "kv/fdb/transaction.h"

namespace fdbnbd::kv {

namespace {

using fdb::Api;
using fdb::Client;

class FdbEngine final : public Engine {
 public:
  FdbEngine(std::unique_ptr<Client> client, uint32_t commits_in_flight)
      : client_(std::move(client)), commits_in_flight_(commits_in_flight) {}

  std::string_view name() const override { return "fdb"; }
  Capabilities capabilities() const override {
    return {.shared_between_hosts = true,
            .commits_in_flight = commits_in_flight_,
            .begins_ahead = true,
            .commits_are_durable = true,
            .range_reply_bytes = limits::kFdbRangeReplyBytes};
  }
  EngineStats stats() const override { return {}; }
  std::unique_ptr<Transaction> begin(Executor& executor) override {
    return fdb::begin_transaction(*client_, executor);
  }
  Task<Result<void>> read(Executor& executor, const BulkRead& request, RowSink& sink) override {
    return fdb::read_in_bulk(*client_, executor, request, sink);
  }
  // A commit is on the disks of the log servers before it is answered.
  Task<Result<void>> sync(Executor&) override { co_return Result<void>(); }

 private:
  const std::unique_ptr<Client> client_;
  const uint32_t commits_in_flight_;
};

// Asks the cluster for a read version and lets a thread wait for the answer with a bound. It lives until the
// answer is there, whoever has given up waiting for it.
class Probe {
 public:
  static std::shared_ptr<Probe> start(const Api& api, fdb::TransactionHandle transaction) {
    const std::shared_ptr<Probe> probe(new Probe(api, std::move(transaction)));
    probe->self_ = probe;
    const fdb_error_t error = api.future_set_callback(probe->future_.get(), &on_ready, probe.get());
    ASSERT(error == 0);
    return probe;
  }

  // False where it was not there in time.
  bool wait_for(Duration timeout) {
    std::unique_lock lock(mutex_);
    return ready_changed_.wait_for(lock, timeout, [this] { return ready_; });
  }
  void cancel() { api_.transaction_cancel(transaction_.get()); }
  fdb_error_t error() const { return api_.future_get_error(future_.get()); }

 private:
  Probe(const Api& api, fdb::TransactionHandle transaction)
      : api_(api),
        transaction_(std::move(transaction)),
        future_(api, api.transaction_get_read_version(transaction_.get())) {}

  static void on_ready(FDBFuture*, void* self) noexcept {
    const std::shared_ptr<Probe> probe = std::move(static_cast<Probe*>(self)->self_);
    const std::lock_guard lock(probe->mutex_);
    probe->ready_ = true;
    probe->ready_changed_.notify_all();
  }

  const Api& api_;
  const fdb::TransactionHandle transaction_;
  const fdb::Future future_;
  std::shared_ptr<Probe> self_;  // the callback's
  std::mutex mutex_;
  std::condition_variable ready_changed_;
  bool ready_ = false;  // guarded by mutex_
};

std::string cluster_name(const FdbOptions& options) {
  if (!options.cluster_file.empty()) return fmt::format("cluster file {}", options.cluster_file);
  return "the cluster file of FDB_CLUSTER_FILE, ./fdb.cluster or /etc/foundationdb/fdb.cluster";
}

Error cluster_error(const Api& api, fdb_error_t error, const FdbOptions& options) {
  return {fdb::meaning_of(error, fdb::Operation::read).code,
          fmt::format("FoundationDB: {}: {} (error {})", cluster_name(options), api.get_error(error), error)};
}

// Asks the cluster for a read version.
Result<void> check_reachable(const Client& client, const FdbOptions& options) {
  ASSIGN_OR_RETURN(fdb::TransactionHandle transaction, client.make_transaction());
  const std::shared_ptr<Probe> probe = Probe::start(client.api, std::move(transaction));
  if (!probe->wait_for(options.connect_timeout)) {
    probe->cancel();
    // A client that has yet to learn which of several libraries the cluster speaks does not heed that.
    static_cast<void>(probe->wait_for(limits::kFdbCancelPatience));
    return fail(
        Errc::unavailable,
        fmt::format("FoundationDB does not answer within {} s ({}); check that the cluster runs and that its "
                    "coordinators can be reached",
                    std::chrono::duration<double>(options.connect_timeout).count(), cluster_name(options)));
  }
  if (const fdb_error_t error = probe->error(); error != 0)
    return tl::unexpected(cluster_error(client.api, error, options));
  return {};
}

// For measurements: FDB_NBD_FDB_PACING=before or =off.
Result<fdb::Pacing> pacing_of_environment() {
  const char* const name = std::getenv("FDB_NBD_FDB_PACING");
  if (name == nullptr || name == std::string_view("beside")) return fdb::Pacing::beside;
  if (name == std::string_view("before")) return fdb::Pacing::before;
  if (name == std::string_view("off")) return fdb::Pacing::off;
  return fail(Errc::invalid, fmt::format("FDB_NBD_FDB_PACING={}: only beside, before or off", name));
}

}  // namespace

Result<std::unique_ptr<Engine>> open_fdb_engine(const FdbOptions& options) {
  ASSIGN_OR_RETURN(const Api* const api, fdb::start_network(options.library_path, options.network_options));
  FDBDatabase* database = nullptr;
  const char* const cluster_file = options.cluster_file.empty() ? nullptr : options.cluster_file.c_str();
  if (const fdb_error_t error = api->create_database(cluster_file, &database); error != 0)
    return tl::unexpected(cluster_error(*api, error, options));
  fdb::DatabaseHandle owned(database, {api});
  ASSIGN_OR_RETURN(const fdb::Pacing pacing, pacing_of_environment());
  auto client =
      std::make_unique<Client>(*api, std::move(owned), *options.clock, options.read_version_lifetime,
                               options.stall_warning, options.background_patience, pacing);
  // A net below the bounds of the callers.
  const int64_t size_limit_bytes = limits::kFdbTransactionBytes;
  if (const fdb_error_t error = api->database_set_option(
          database, static_cast<int>(fdb::DatabaseOption::transaction_size_limit),
          reinterpret_cast<const uint8_t*>(&size_limit_bytes), sizeof size_limit_bytes);
      error != 0)
    return tl::unexpected(cluster_error(*api, error, options));
  RETURN_IF_ERROR(check_reachable(*client, options));
  return std::make_unique<FdbEngine>(std::move(client), options.commits_in_flight);
}

}  // namespace fdbnbd::kv
