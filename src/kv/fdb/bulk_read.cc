#include "kv/fdb/bulk_read.h"

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "kv/fdb/future.h"
#include "kv/mutations.h"

namespace fdbnbd::kv::fdb {

namespace {

// Attempts without success after which the log says so.
constexpr uint32_t kAttemptsBeforeWarning = 10;

class BulkReader {
 public:
  BulkReader(Client& client, Executor& executor, const BulkRead& request, RowSink& sink)
      : client_(client),
        executor_(executor),
        request_(request),
        sink_(sink),
        random_(reinterpret_cast<uintptr_t>(this)) {}

  Task<Result<void>> run();

 private:
  // One point or one range, or what is left of a range.
  struct Piece {
    size_t index;
    bool is_range;
    std::string begin;  // of a range that was delivered in part; else empty
  };
  struct InFlight {
    Piece piece;
    Future future;
  };

  const Api& api() const { return client_.api; }
  Task<Result<TransactionHandle>> begin();
  InFlight start(FDBTransaction* transaction, Piece piece);
  // Everything that is pending, at one version. The failure that asks for another attempt, if any, is in
  // retry_error_.
  Task<Result<void>> run_once(FDBTransaction* transaction);
  // Delivers what arrived; a piece that has more to come is started again.
  fdb_error_t deliver(FDBTransaction* transaction, InFlight& done);
  fdb_error_t deliver_range(FDBTransaction* transaction, InFlight& done);

  Client& client_;
  Executor& executor_;
  const BulkRead& request_;
  RowSink& sink_;
  Random random_;  // for back-off
  std::deque<Piece> pending_;
  std::deque<InFlight> in_flight_;
  std::vector<Piece> failed_;
  Version version_ = 0;
  fdb_error_t retry_error_ = 0;
};

Task<Result<void>> BulkReader::run() {
  for (size_t i = 0; i < request_.points.size(); ++i) pending_.push_back({i, false, {}});
  for (size_t i = 0; i < request_.ranges.size(); ++i)
    if (request_.ranges[i].begin < request_.ranges[i].end) pending_.push_back({i, true, {}});
  for (uint32_t attempt = 1; !pending_.empty(); ++attempt) {
    auto transaction = co_await begin();
    Remedy remedy = Remedy::short_wait;
    Result<void> result;
    if (transaction) {
      result = co_await run_once(transaction->get());
      if (!result) co_return result;
      if (pending_.empty()) break;
      remedy = meaning_of(retry_error_, Operation::read).remedy;
      if (remedy == Remedy::new_read_version) client_.read_versions.refuse(version_);
    } else if (transaction.error().code != Errc::unavailable) {
      co_return propagate(transaction);
    }
    if (attempt == kAttemptsBeforeWarning) {
      log::warning("FoundationDB does not answer reads: {}; still trying",
                   transaction ? api().get_error(retry_error_) : transaction.error().what.c_str());
    }
    co_await wait_before_attempt(executor_, remedy, attempt, random_);
  }
  co_return Result<void>();
}

Task<Result<TransactionHandle>> BulkReader::begin() {
  auto made = client_.make_transaction();
  if (!made) co_return made;
  FDBTransaction* const transaction = made->get();
  if (request_.background) {
    for (const TransactionOption option :
         {TransactionOption::priority_batch, TransactionOption::read_priority_low,
          TransactionOption::read_server_side_cache_disable}) {
      // Older clients do not have all of them: a hint that is not taken does no harm.
      static_cast<void>(api().transaction_set_option(transaction, static_cast<int>(option), nullptr, 0));
    }
  } else if (const auto cached = client_.read_versions.fresh()) {
    version_ = *cached;
    api().transaction_set_read_version(transaction, version_);
    co_return made;
  }
  // Background work asks each time, so that the cluster can slow it down.
  auto version = co_await client_.get_read_version(executor_, transaction);
  if (!version) co_return propagate(version);
  version_ = *version;
  co_return made;
}

BulkReader::InFlight BulkReader::start(FDBTransaction* transaction, Piece piece) {
  FDBFuture* future = nullptr;
  if (piece.is_range) {
    const KeyRange& range = request_.ranges[piece.index];
    const std::string_view begin = piece.begin.empty() ? range.begin : std::string_view(piece.begin);
    future = api().transaction_get_range(transaction, bytes_of(begin), length_of(begin), 0, 1,
                                         bytes_of(range.end), length_of(range.end), 0, 1, 0, 0,
                                         static_cast<int>(StreamingMode::want_all), 0,
                                         /*snapshot=*/1, /*reverse=*/0);
  } else {
    const std::string_view key = request_.points[piece.index];
    future = api().transaction_get(transaction, bytes_of(key), length_of(key), /*snapshot=*/1);
  }
  return {std::move(piece), Future(api(), future)};
}

Task<Result<void>> BulkReader::run_once(FDBTransaction* transaction) {
  retry_error_ = 0;
  const StallWarning warning(client_, executor_, "a read");
  Result<void> result;
  while (!pending_.empty() || !in_flight_.empty()) {
    // After a failure nothing new is started, but everything that was is waited for.
    while (!pending_.empty() && retry_error_ == 0 && result &&
           in_flight_.size() < limits::kFdbReadsInFlight) {
      in_flight_.push_back(start(transaction, std::move(pending_.front())));
      pending_.pop_front();
    }
    if (in_flight_.empty()) break;
    fdb_error_t error = co_await in_flight_.front().future.ready(executor_);
    InFlight done = std::move(in_flight_.front());
    in_flight_.pop_front();
    if (error == 0) error = deliver(transaction, done);
    if (error == 0) continue;
    if (meaning_of(error, Operation::read).code == Errc::unavailable) {
      retry_error_ = error;
    } else if (result) {
      result = tl::unexpected(error_of(api(), error, Operation::read, "read"));
    }
    failed_.push_back(std::move(done.piece));
  }
  for (Piece& piece : failed_) pending_.push_back(std::move(piece));
  failed_.clear();
  co_return result;
}

fdb_error_t BulkReader::deliver(FDBTransaction* transaction, InFlight& done) {
  if (done.piece.is_range) return deliver_range(transaction, done);
  fdb_bool_t present = 0;
  const uint8_t* value = nullptr;
  int value_length = 0;
  const fdb_error_t error = api().future_get_value(done.future.get(), &present, &value, &value_length);
  if (error == 0 && present != 0) sink_.on_point_row(done.piece.index, view_of(value, value_length));
  return error;
}

fdb_error_t BulkReader::deliver_range(FDBTransaction* transaction, InFlight& done) {
  const FDBKeyValue* rows = nullptr;
  int rows_count = 0;
  fdb_bool_t more = 0;
  const fdb_error_t error = api().future_get_keyvalue_array(done.future.get(), &rows, &rows_count, &more);
  if (error != 0) return error;
  // The next part is on its way while this one is unpacked.
  Piece rest{done.piece.index, true, {}};
  if (more != 0 && rows_count > 0) {
    const FDBKeyValue& last = rows[rows_count - 1];
    rest.begin = key_after(view_of(last.key, last.key_length));
    if (std::string_view(rest.begin) < request_.ranges[rest.index].end)
      in_flight_.push_back(start(transaction, std::move(rest)));
  }
  for (int i = 0; i < rows_count; ++i)
    sink_.on_range_row(done.piece.index, view_of(rows[i].key, rows[i].key_length),
                       view_of(rows[i].value, rows[i].value_length));
  return 0;
}

}  // namespace

Task<Result<void>> read_in_bulk(Client& client, Executor& executor, const BulkRead& request, RowSink& sink) {
  BulkReader reader(client, executor, request, sink);
  co_return co_await reader.run();
}

}  // namespace fdbnbd::kv::fdb
