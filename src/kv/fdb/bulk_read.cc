#include "kv/fdb/bulk_read.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "kv/fdb/arrivals.h"
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
        random_(reinterpret_cast<uintptr_t>(this)),
        arrivals_(executor) {}

  Task<Result<void>> run();

 private:
  // One point or one range, or what is left of a range.
  struct Piece : Arrivals::Item {
    Piece(const Api& api, size_t the_index, bool is_of_ranges)
        : Item(api), index(the_index), is_range(is_of_ranges) {}

    size_t index;
    bool is_range;
    std::string begin;  // of a range that was delivered in part; else empty
  };

  const Api& api() const { return client_.api; }
  void list_pieces();
  // A transaction with a version of its own.
  Task<Result<std::shared_ptr<ReadTransaction>>> ask_version();
  // Starts what is pending, as much as may be in flight; nothing once something has failed.
  void start_pending(const ReadTransaction& transaction);
  void start(const ReadTransaction& transaction, Piece& piece);
  // Takes the result of a piece: delivered, started again for the rest, or put back to be asked for again.
  void finish(const ReadTransaction& transaction, Piece& piece);
  fdb_error_t deliver(const ReadTransaction& transaction, Piece& piece);
  fdb_error_t deliver_range(const ReadTransaction& transaction, Piece& piece);

  Client& client_;
  Executor& executor_;
  const BulkRead& request_;
  RowSink& sink_;
  Random random_;  // for back-off
  Arrivals arrivals_;
  std::vector<Piece> pieces_;
  std::vector<Piece*> pending_;  // the next one is at the back
  std::vector<Piece*> failed_;
  size_t in_flight_count_ = 0;
  fdb_error_t retry_error_ = 0;  // one that asks for another attempt
  Result<void> result_;
};

void BulkReader::list_pieces() {
  pieces_.reserve(request_.points.size() + request_.ranges.size());
  for (size_t i = 0; i < request_.points.size(); ++i) pieces_.emplace_back(api(), i, false);
  for (size_t i = 0; i < request_.ranges.size(); ++i)
    if (request_.ranges[i].begin < request_.ranges[i].end) pieces_.emplace_back(api(), i, true);
  pending_.reserve(pieces_.size());
  for (size_t i = pieces_.size(); i > 0; --i) pending_.push_back(&pieces_[i - 1]);
}

Task<Result<void>> BulkReader::run() {
  list_pieces();
  for (uint32_t attempt = 1; !pending_.empty(); ++attempt) {
    std::shared_ptr<ReadTransaction> transaction;
    if (!request_.background) transaction = client_.shared_read_transaction();
    Remedy remedy = Remedy::short_wait;
    std::string problem;
    if (transaction == nullptr) {
      auto asked = co_await ask_version();
      if (asked) {
        transaction = std::move(*asked);
      } else if (asked.error().code == Errc::unavailable) {
        problem = std::move(asked.error().what);
      } else {
        co_return propagate(asked);
      }
    }
    if (transaction != nullptr) {
      StallWarning warning(client_, executor_, "a read");
      retry_error_ = 0;
      for (start_pending(*transaction); in_flight_count_ > 0; start_pending(*transaction)) {
        Arrivals::Item* ready = co_await arrivals_.take();
        while (ready != nullptr) {
          Piece& piece = static_cast<Piece&>(*std::exchange(ready, ready->next));
          finish(*transaction, piece);
        }
      }
      if (!result_) co_return result_;
      for (Piece* const piece : std::exchange(failed_, {})) pending_.push_back(piece);
      if (pending_.empty()) break;
      problem = api().get_error(retry_error_);
      remedy = meaning_of(retry_error_, Operation::read).remedy;
      client_.retire(*transaction, /*is_too_old=*/remedy == Remedy::new_read_version);
    }
    if (attempt == kAttemptsBeforeWarning)
      log::warning("FoundationDB does not answer reads: {}; still trying", problem);
    co_await wait_before_attempt(executor_, remedy, attempt, random_);
  }
  co_return Result<void>();
}

Task<Result<std::shared_ptr<ReadTransaction>>> BulkReader::ask_version() {
  auto made = client_.make_transaction();
  if (!made) co_return propagate(made);
  // Background work asks each time, so that the cluster can slow it down.
  if (request_.background) {
    auto begun = co_await client_.begin_background(executor_, std::move(*made));
    if (!begun) co_return propagate(begun);
    co_return std::make_shared<ReadTransaction>(std::move(begun->handle), begun->version);
  }
  auto version = co_await client_.get_read_version(executor_, made->get());
  if (!version) co_return propagate(version);
  co_return std::make_shared<ReadTransaction>(std::move(*made), *version);
}

void BulkReader::start_pending(const ReadTransaction& transaction) {
  while (!pending_.empty() && retry_error_ == 0 && result_ && in_flight_count_ < limits::kFdbReadsInFlight) {
    Piece* const piece = pending_.back();
    pending_.pop_back();
    start(transaction, *piece);
  }
}

void BulkReader::start(const ReadTransaction& transaction, Piece& piece) {
  ++in_flight_count_;
  FDBTransaction* const handle = transaction.handle.get();
  if (!piece.is_range) {
    const std::string_view key = request_.points[piece.index];
    arrivals_.expect(api(), piece, api().transaction_get(handle, bytes_of(key), length_of(key), 1));
    return;
  }
  const KeyRange& range = request_.ranges[piece.index];
  const std::string_view begin = piece.begin.empty() ? range.begin : piece.begin;
  arrivals_.expect(api(), piece,
                   api().transaction_get_range(handle, bytes_of(begin), length_of(begin), 0, 1,
                                               bytes_of(range.end), length_of(range.end), 0, 1, 0, 0,
                                               static_cast<int>(StreamingMode::want_all), 0, 1, 0));
}

void BulkReader::finish(const ReadTransaction& transaction, Piece& piece) {
  --in_flight_count_;
  fdb_error_t error = api().future_get_error(piece.future.get());
  if (error == 0) error = deliver(transaction, piece);
  if (error == 0) return;
  piece.future.reset();
  failed_.push_back(&piece);
  if (meaning_of(error, Operation::read).code == Errc::unavailable) {
    retry_error_ = error;
  } else if (result_) {
    result_ = tl::unexpected(error_of(api(), error, Operation::read, "read"));
  }
}

fdb_error_t BulkReader::deliver(const ReadTransaction& transaction, Piece& piece) {
  if (piece.is_range) return deliver_range(transaction, piece);
  fdb_bool_t present = 0;
  const uint8_t* value = nullptr;
  int value_length = 0;
  const fdb_error_t error = api().future_get_value(piece.future.get(), &present, &value, &value_length);
  if (error != 0) return error;
  if (present != 0) sink_.on_point_row(piece.index, view_of(value, value_length));
  piece.future.reset();
  return 0;
}

fdb_error_t BulkReader::deliver_range(const ReadTransaction& transaction, Piece& piece) {
  const FDBKeyValue* rows = nullptr;
  int rows_count = 0;
  fdb_bool_t more = 0;
  const fdb_error_t error = api().future_get_keyvalue_array(piece.future.get(), &rows, &rows_count, &more);
  if (error != 0) return error;
  const size_t index = piece.index;
  const FutureHandle owner = std::move(piece.future);
  // The next part is on its way while this one is unpacked.
  if (more != 0 && rows_count > 0) {
    const FDBKeyValue& last = rows[rows_count - 1];
    piece.begin = key_after(view_of(last.key, last.key_length));
    if (std::string_view(piece.begin) < request_.ranges[index].end) start(transaction, piece);
  }
  for (int i = 0; i < rows_count; ++i)
    sink_.on_range_row(index, view_of(rows[i].key, rows[i].key_length),
                       view_of(rows[i].value, rows[i].value_length));
  return 0;
}

}  // namespace

Task<Result<void>> read_in_bulk(Client& client, Executor& executor, const BulkRead& request, RowSink& sink) {
  BulkReader reader(client, executor, request, sink);
  co_return co_await reader.run();
}

}  // namespace fdbnbd::kv::fdb
