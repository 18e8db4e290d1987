#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "async/run_loop.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/random.h"
#include "kv/engine.h"
#include "kv/memory/memory_engine.h"
#include "kv/rocks/rocks_engine.h"
#include "micro/scratch.h"

// What a volume asks of its engine: blind commits of 4 KiB rows, reads of many rows, syncs.

namespace fdbnbd {
namespace {

constexpr uint64_t kRowsCount = 16 * 1024;
constexpr size_t kValueBytes = 4096;
constexpr size_t kFillBatchRows = 64;
constexpr uint64_t kKeysSeed = 1;

enum class Kind { memory, rocks };

std::string row_key(uint64_t row) {
  std::string key = "D";
  for (int shift = 56; shift >= 0; shift -= 8) key.push_back(static_cast<char>(row >> shift));
  return key;
}

struct TestStore {
  explicit TestStore(Kind kind) {
    if (kind == Kind::memory) {
      kv::MemoryOptions options;
      options.always_suspend = false;
      engine = bench::require(kv::open_memory_engine(options));
    } else {
      kv::RocksOptions options;
      options.path = directory.path() + "/store";
      engine = bench::require(kv::open_rocks_engine(options));
    }
    loop.run(fill());
  }

  Task<void> fill() {
    for (uint64_t row = 0; row < kRowsCount; row += kFillBatchRows) {
      auto transaction = engine->begin(loop);
      transaction->disable_write_conflicts();
      for (uint64_t index = row; index < row + kFillBatchRows; ++index)
        transaction->set(row_key(index), value);
      bench::require(co_await transaction->commit());
    }
  }

  bench::ScratchDirectory directory;
  RunLoop loop;
  std::unique_ptr<kv::Engine> engine;
  std::string value = bench::sample_data(kValueBytes, 0, kKeysSeed);
};

Task<void> commit_rows(TestStore& store, uint64_t first_row, uint64_t step, int64_t rows_count) {
  auto transaction = store.engine->begin(store.loop);
  transaction->disable_write_conflicts();
  for (int64_t index = 0; index < rows_count; ++index) {
    transaction->set(row_key((first_row + static_cast<uint64_t>(index) * step) % kRowsCount), store.value);
  }
  bench::require(co_await transaction->commit());
}

void count_rows(benchmark::State& state, int64_t rows_count) {
  state.SetItemsProcessed(rows_count);
  state.SetBytesProcessed(rows_count * static_cast<int64_t>(kValueBytes));
}

// range(0) rows a commit, range(1) commits in flight; the rows far apart.
Task<void> commit_loop(benchmark::State& state, TestStore& store) {
  Random random(kKeysSeed);
  TaskScope scope;
  constexpr uint64_t kFarApart = 61;
  while (state.KeepRunningBatch(state.range(1))) {
    for (int64_t flight = 0; flight < state.range(1); ++flight) {
      scope.spawn(commit_rows(store, random.below(kRowsCount), kFarApart, state.range(0)));
    }
    co_await scope.join();
  }
  count_rows(state, state.iterations() * state.range(0));
}

void engine_commit(benchmark::State& state, Kind kind) {
  TestStore store(kind);
  store.loop.run(commit_loop(state, store));
}
#define COMMIT_ARGUMENTS \
  ArgsProduct({{1, 16, 64}, {1, 4}})->ArgNames({"rows", "flight"})->MeasureProcessCPUTime()->UseRealTime()
BENCHMARK_CAPTURE(engine_commit, memory, Kind::memory)->COMMIT_ARGUMENTS;
BENCHMARK_CAPTURE(engine_commit, rocks, Kind::rocks)->COMMIT_ARGUMENTS;

Task<void> commit_and_sync_loop(benchmark::State& state, TestStore& store) {
  Random random(kKeysSeed);
  for ([[maybe_unused]] auto unused : state) {
    co_await commit_rows(store, random.below(kRowsCount), 1, 1);
    bench::require(co_await store.engine->sync(store.loop));
  }
}

void engine_commit_and_sync(benchmark::State& state, Kind kind) {
  TestStore store(kind);
  store.loop.run(commit_and_sync_loop(state, store));
}
BENCHMARK_CAPTURE(engine_commit_and_sync, rocks, Kind::rocks)->MeasureProcessCPUTime()->UseRealTime();

class CountingSink final : public kv::RowSink {
 public:
  void on_range_row(size_t, std::string_view, std::string_view value) override { bytes_ += value.size(); }
  void on_point_row(size_t, std::string_view value) override { bytes_ += value.size(); }
  void on_unreadable_range_row(size_t, std::string_view) override { std::abort(); }
  void on_unreadable_point(size_t) override { std::abort(); }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

Task<void> read_points(TestStore& store, std::vector<std::string> keys) {
  kv::BulkRead request;
  request.points.assign(keys.begin(), keys.end());
  CountingSink sink;
  bench::require(co_await store.engine->read(store.loop, request, sink));
  if (sink.bytes() != keys.size() * kValueBytes) std::abort();
}

// range(0) random points a read, range(1) reads in flight.
Task<void> read_points_loop(benchmark::State& state, TestStore& store) {
  Random random(kKeysSeed);
  TaskScope scope;
  while (state.KeepRunningBatch(state.range(1))) {
    for (int64_t flight = 0; flight < state.range(1); ++flight) {
      std::vector<std::string> keys;
      for (int64_t index = 0; index < state.range(0); ++index)
        keys.push_back(row_key(random.below(kRowsCount)));
      std::sort(keys.begin(), keys.end());
      scope.spawn(read_points(store, std::move(keys)));
    }
    co_await scope.join();
  }
  count_rows(state, state.iterations() * state.range(0));
}

void engine_read_points(benchmark::State& state, Kind kind) {
  TestStore store(kind);
  store.loop.run(read_points_loop(state, store));
}
#define POINTS_ARGUMENTS               \
  Args({1, 1})                         \
      ->Args({32, 1})                  \
      ->Args({1, 32})                  \
      ->ArgNames({"points", "flight"}) \
      ->MeasureProcessCPUTime()        \
      ->UseRealTime()
BENCHMARK_CAPTURE(engine_read_points, memory, Kind::memory)->POINTS_ARGUMENTS;
BENCHMARK_CAPTURE(engine_read_points, rocks, Kind::rocks)->POINTS_ARGUMENTS;

Task<void> read_range_loop(benchmark::State& state, TestStore& store) {
  Random random(kKeysSeed);
  const uint64_t rows_count = static_cast<uint64_t>(state.range(0));
  for ([[maybe_unused]] auto unused : state) {
    const uint64_t first = random.below(kRowsCount - rows_count);
    const std::string begin = row_key(first), end = row_key(first + rows_count);
    kv::BulkRead request;
    request.ranges.push_back({begin, end});
    CountingSink sink;
    bench::require(co_await store.engine->read(store.loop, request, sink));
    if (sink.bytes() != rows_count * kValueBytes) std::abort();
  }
  count_rows(state, state.iterations() * state.range(0));
}

// A sequential read of range(0) rows.
void engine_read_range(benchmark::State& state, Kind kind) {
  TestStore store(kind);
  store.loop.run(read_range_loop(state, store));
}
BENCHMARK_CAPTURE(engine_read_range, memory, Kind::memory)->Arg(256)->MeasureProcessCPUTime()->UseRealTime();
BENCHMARK_CAPTURE(engine_read_range, rocks, Kind::rocks)->Arg(256)->MeasureProcessCPUTime()->UseRealTime();

}  // namespace
}  // namespace fdbnbd
