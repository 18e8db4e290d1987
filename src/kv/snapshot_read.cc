#include "kv/snapshot_read.h"

#include <string>

#include "async/scope.h"
#include "async/semaphore.h"
#include "base/limits.h"
#include "kv/mutations.h"

namespace fdbnbd::kv {

namespace {

class SnapshotReader {
 public:
  SnapshotReader(Transaction& transaction, const BulkRead& request, RowSink& sink)
      : transaction_(transaction), request_(request), sink_(sink) {}

  Task<Result<void>> run();

 private:
  Task<void> read_point(size_t index);
  Task<void> read_range(size_t index);

  Transaction& transaction_;
  const BulkRead& request_;
  RowSink& sink_;
  Semaphore slots_{limits::kSnapshotReadsInFlight};
  TaskScope scope_;
  Result<void> result_;
};

Task<Result<void>> SnapshotReader::run() {
  // Reads may only be under way at the same time once the version is known.
  auto version = co_await transaction_.read_version();
  if (!version) co_return propagate(version);
  for (size_t i = 0; i < request_.points.size(); ++i) scope_.spawn(read_point(i));
  for (size_t i = 0; i < request_.ranges.size(); ++i) scope_.spawn(read_range(i));
  co_await scope_.join();
  co_return result_;
}

Task<void> SnapshotReader::read_point(size_t index) {
  Semaphore::Slot slot(slots_);
  co_await slot.acquire();
  if (!result_) co_return;
  auto value = co_await transaction_.get(request_.points[index], Isolation::snapshot);
  if (!value) {
    result_ = propagate(value);
  } else if (value->has_value()) {
    sink_.on_point_row(index, **value);
  }
}

Task<void> SnapshotReader::read_range(size_t index) {
  Semaphore::Slot slot(slots_);
  co_await slot.acquire();
  const std::string_view end = request_.ranges[index].end;
  std::string begin(request_.ranges[index].begin);
  while (result_) {
    auto page = co_await transaction_.get_range({begin, end}, {}, Isolation::snapshot);
    if (!page) {
      result_ = propagate(page);
      co_return;
    }
    for (const KeyValue& row : page->rows) sink_.on_range_row(index, row.key, row.value);
    if (!page->more || page->rows.empty()) co_return;
    begin = key_after(page->rows.back().key);
  }
}

}  // namespace

Task<Result<void>> read_in_snapshot(Transaction& transaction, const BulkRead& request, RowSink& sink) {
  SnapshotReader reader(transaction, request, sink);
  co_return co_await reader.run();
}

}  // namespace fdbnbd::kv
